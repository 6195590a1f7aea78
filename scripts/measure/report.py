"""Medians, ratios and geometric means: on the terminal, in JSON, in a plot, and in the marked parts of a page."""

import json
import math
import os
import re
import statistics

import plot
from machine import fail, say

BIG = ("big-", "list-1m")
DATA = ("write-", "rewrite-", "read-", "mixed-", "append-", "sqlite-")
OURS = ("kmsfs", "kmsfs-fast", "kmsfs-xts")


def is_big(name):
    return name.startswith(BIG)


def medians(results, kind="times"):
    """Seconds by workload and target: of the clock, or with `processor` of the programs and the daemon."""
    return {
        name: {target: statistics.median(times) for target, times in by_target.items()}
        for name, by_target in results[kind].items()
    }


def ratio(row, target, base):
    """None where one of them has no time."""
    if target in row and row.get(base):
        return row[target] / row[base]
    return None


def geometric_mean(ratios):
    known = [value for value in ratios if value]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def grid(head, rows):
    """A table in Markdown that is also aligned for the eye."""
    columns = list(zip(head, *rows))
    widths = [max(len(cell) for cell in column) for column in columns]

    def line(cells):
        first, *rest = zip(cells, widths)
        return "| " + " | ".join([first[0].ljust(first[1])] + [cell.rjust(width) for cell, width in rest]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (width + 1) + ":" for width in widths[1:]]) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def seconds_table(rows, targets):
    return grid(["seconds", *targets], [[name, *(number(row.get(t), 3) for t in targets)] for name, row in rows.items()])


def ratio_table(rows, targets, base):
    targets = [target for target in targets if target != base]
    body = [[name, *(number(ratio(row, t, base), 2) for t in targets)] for name, row in rows.items()]
    means = [number(geometric_mean(ratio(row, t, base) for row in rows.values()), 2) for t in targets]
    return grid([f"time / {base}", *targets], [*body, ["geometric mean", *means]])


def tables(results, kind="times"):
    """Pairs of a title and a table."""
    all_rows = medians(results, kind)
    made = []
    for title, rows in (
        ("", {name: row for name, row in all_rows.items() if not is_big(name)}),
        (", large trees", {name: row for name, row in all_rows.items() if is_big(name)}),
    ):
        if not rows:
            continue
        targets = [target for target in results["targets"] if any(target in row for row in rows.values())]
        made.append((f"Median seconds{title}", seconds_table(rows, targets)))
        for base in ("gocryptfs", "passthrough"):
            if base in targets:
                made.append((f"Time relative to {base}{title}", ratio_table(rows, targets, base)))
    return made


AIMS = [
    # base, which workloads, of all together, of each
    ("gocryptfs", "all", lambda name: True, 0.5, 1.0),
    ("passthrough", "all", lambda name: True, 1.0, 1.3),
    ("fscrypt", "data", lambda name: name.startswith(DATA), None, 0.5),
    ("fscrypt", "metadata", lambda name: not name.startswith(DATA), None, 2.5),
]


def verdicts(results):
    """How kmsfs stands to its aims."""
    rows, lines = medians(results), []
    for base, kind, fits, mean_aim, each_aim in AIMS:
        ratios = {name: ratio(row, "kmsfs", base) for name, row in rows.items() if fits(name)}
        ratios = {name: value for name, value in ratios.items() if value}
        if not ratios:
            continue
        mean = geometric_mean(ratios.values())
        over = sorted(((value, name) for name, value in ratios.items() if value > each_aim), reverse=True)
        aim = "" if mean_aim is None else f" (aim {mean_aim}: {'met' if mean <= mean_aim else 'missed'})"
        missed = ", ".join(f"{name} {value:.2f}" for value, name in over) or "none"
        lines.append(f"- Against {base}, {kind}: geometric mean {mean:.2f}{aim}; above {each_aim}: {missed}.")
    for name, fact in results["start"].items():
        state = "met" if fact["milliseconds"] <= fact["aim"] else "missed"
        lines.append(f"- {name}: {fact['milliseconds']:.1f} ms (aim {fact['aim']}: {state}).")
    return "\n".join(lines)


def failures(results):
    """Each once, however many rounds it came in, and in one line."""
    told = (f"{fault['target']} failed in {', '.join(fault['workloads'])}: {fault['wrong']}" for fault in results["faults"])
    return list(dict.fromkeys(" ".join(text.split()) for text in told))


def show(results, kind):
    for title, table in tables(results, kind):
        say(f"\n{title}\n\n{table}")
    say(f"\n{verdicts(results)}\n")
    for text in failures(results):
        say(text)
    say(f"made by `{results['command']}` in {results['seconds']} s, {results['rounds']} rounds")


def replace_part(page, name, text):
    """Puts `text` between the marks of the part `name` of a page."""
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
    if not pattern.search(page):
        fail(f"the page has no marks <!-- bench:{name} --> and <!-- /bench:{name} -->")
    return pattern.sub(lambda found: f"{found.group(1)}\n{text}\n\n{found.group(2)}", page)


def update_page(out, name, text):
    path = os.path.join(out, "performance.md")
    with open(path) as file:
        page = file.read()
    with open(path, "w") as file:
        file.write(replace_part(page, name, text))


def machine_text(results):
    lines = [f"Made by `{results['command']}` in {results['seconds']} s; {results['rounds']} rounds, medians."]
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    tree = results["tree"]
    lines.append(f"- source tree: {tree['files']} files, {tree['bytes'] / (1 << 20):.1f} MiB")
    return "\n".join([lines[0], "", *lines[1:]])


def publish(results, out):
    """Writes the results, the plot, and the marked parts of the page."""
    with open(os.path.join(out, "performance.json"), "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    with open(os.path.join(out, "performance.svg"), "w") as file:
        file.write(plot.draw(medians(results), results["targets"], results["command"]))
    update_page(out, "machine", machine_text(results))
    update_page(out, "aims", verdicts(results))
    text = "\n\n".join(f"### {title}\n\n{table}" for title, table in tables(results))
    update_page(out, "tables", "\n\n".join([text, *failures(results)]))
