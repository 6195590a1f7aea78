"""A keystore of its own, `kmsfs serve` on loopback, and clients that know of it only what `kmsfs aws-config` prints.

Environment: KMSFS_BIN, the binary under test; KMSFS_NODE_MODULES, where the packages of package.json are installed.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

REGION = "us-west-2"
USER = "tests"
HERE = Path(__file__).parent


class Server:
    """A running `kmsfs serve`, and how to be one of its users."""

    def __init__(self, base):
        self.base = base
        self.binary = os.environ["KMSFS_BIN"]
        self.keystore = base / "keystore"
        self.passfile = base / "passphrase"
        self.socket = base / "socket"
        self.config = base / "aws-config"
        self.process = None

    def kmsfs(self, *arguments, **options):
        environment = {**os.environ, "KMSFS_KEYSTORE": str(self.keystore)}
        done = subprocess.run([self.binary, *arguments], env=environment, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, f"kmsfs {arguments}: {done.stderr}"
        return done.stdout

    def start(self, *more):
        self.base.chmod(0o755)
        self.passfile.write_text("passphrase of the clients\n")
        self.passfile.chmod(0o600)
        (self.base / "vault").mkdir()
        self.kmsfs("init", str(self.base / "vault"), "--unlock-time", "1", "--passfile", str(self.passfile))
        arguments = ["serve", "--foreground", "--listen", "127.0.0.1:0", "--unix", str(self.socket), "--passfile", str(self.passfile), *more]
        environment = {**os.environ, "KMSFS_KEYSTORE": str(self.keystore)}
        self.log = open(self.base / "serve.log", "w", encoding="utf-8")
        self.process = subprocess.Popen([self.binary, *arguments], env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        assert "://127.0.0.1:" in line, line + (self.base / "serve.log").read_text()
        self.url = next(word for word in line.split() if "://" in word)
        profile = self.kmsfs("aws-config", "--region", REGION, "--unix", str(self.socket))
        # The same for somebody else, who may have no Python of their own to run a client with.
        other = profile.replace("[profile kmsfs]", f"[profile {USER}]")
        other = other.replace("credential_process = ", f"credential_process = runuser -u {USER} -- ")
        self.config.write_text(profile + other)
        self.config.chmod(0o644)

    def stop(self):
        self.process.terminate()
        assert self.process.wait(30) == 0
        self.log.close()
        said = (self.base / "serve.log").read_text()
        assert "panicked" not in said, said

    def environment(self):
        """What a client needs: the profile, and nothing else of this machine's settings."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {
            **environment,
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
            "AWS_CONFIG_FILE": str(self.config),
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_PROFILE": "kmsfs",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }

    def run(self, *command, profile="kmsfs", **options):
        """Runs a client."""
        environment = {**self.environment(), "AWS_PROFILE": profile}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.fixture(scope="session")
def server():
    base = Path(tempfile.mkdtemp(prefix="kmsfs-clients-", dir=os.environ.get("KMSFS_AREA")))
    one = Server(base)
    one.start()
    os.environ.update({name: value for name, value in one.environment().items() if name.startswith("AWS_")})
    yield one
    one.stop()
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def session(server):
    return boto3.Session(profile_name="kmsfs")


@pytest.fixture(scope="session")
def kms(session):
    """A client that leaves checking to the server."""
    return session.client("kms", config=Config(parameter_validation=False, max_pool_connections=32))


@pytest.fixture
def key(kms):
    """A fresh key: its ARN."""
    return kms.create_key()["KeyMetadata"]["Arn"]


@pytest.fixture(scope="session")
def other_user():
    if os.geteuid() != 0:
        pytest.skip("another user needs root")
    try:
        return pwd.getpwnam(USER).pw_name
    except KeyError:
        pytest.fail(f"there is no user {USER}: useradd {USER}")


def pytest_runtest_logreport(report):
    """One line a test, as the other checks print it."""
    if report.when == "call" or (report.when == "setup" and not report.passed):
        word = {"passed": "PASS", "failed": "FAIL", "skipped": "SKIP"}[report.outcome]
        print(f"\n{word} {report.nodeid} {report.duration:.2f}s", flush=True)
