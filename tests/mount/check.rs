//! `kmsfs fsck` as a program sees it.

use std::ffi::OsStr;

use serde_json::Value;

use crate::harness::{Volume, words};

/// What a check said.
#[derive(Debug)]
pub struct Checked {
    pub code: Option<i32>,
    pub findings: Vec<Finding>,
    pub json: Value,
}

#[derive(Debug, Clone)]
pub struct Finding {
    pub severity: String,
    pub problem: String,
    /// The plain path; of what no mount shows, the stored one.
    pub path: String,
    pub stored: String,
    pub mended: Option<String>,
}

/// Runs `kmsfs fsck --json ARGUMENTS` on an unmounted volume.
pub fn fsck(volume: &Volume, arguments: &[&str]) -> Checked {
    let mut all = vec![OsStr::new("fsck"), volume.backing.as_os_str(), OsStr::new("--json")];
    all.extend(arguments.iter().map(OsStr::new));
    let output = volume.run(&all);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", words(&output)));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let finding = |value: &Value| Finding {
        severity: text(&value["severity"]).expect("a severity"),
        problem: text(&value["problem"]).expect("a problem"),
        path: text(&value["path"]).or_else(|| text(&value["stored"])).expect("a path"),
        stored: text(&value["stored"]).expect("a stored path"),
        mended: text(&value["mended"]),
    };
    let findings = json["findings"].as_array().expect("findings").iter().map(finding).collect();
    Checked { code: output.status.code(), findings, json }
}

impl Checked {
    /// Everything is in order: not even a note.
    pub fn expect_clean(&self) {
        assert!(self.code == Some(0) && self.findings.is_empty(), "not clean: {self:#?}");
    }

    /// Nothing is wrong; there may be notes.
    pub fn expect_whole(&self) {
        let bad = self.findings.iter().any(|finding| finding.severity != "note" && finding.mended.is_none());
        assert!(self.code == Some(0) && !bad, "not whole: {self:#?}");
    }

    /// The problems of a path that were not mended, sorted.
    pub fn left(&self, path: &str) -> Vec<&str> {
        self.of(path, false)
    }

    /// The problems of a path that were mended, sorted.
    pub fn mended(&self, path: &str) -> Vec<&str> {
        self.of(path, true)
    }

    fn of(&self, path: &str, mended: bool) -> Vec<&str> {
        let of = |finding: &&Finding| finding.path == path && finding.mended.is_some() == mended;
        let mut problems: Vec<&str> = self.findings.iter().filter(of).map(|finding| &*finding.problem).collect();
        problems.sort_unstable();
        problems
    }

    /// Whether there is an error of this path.
    pub fn is_damaged(&self, path: &str) -> bool {
        self.findings.iter().any(|finding| finding.path == path && finding.severity == "error")
    }

    /// A number of the counts.
    pub fn count(&self, name: &str) -> u64 {
        self.json["counts"][name].as_u64().unwrap_or_else(|| panic!("no count {name}: {}", self.json))
    }
}
