//! What is done to a file before it crashes: what was thought of, and what is chosen at random.

use super::disk::Choices;

/// Something done to a file.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Write { at: u64, len: usize },
    Append { len: usize },
    Truncate(u64),
    Punch { at: u64, len: u64 },
    Zero { at: u64, len: u64 },
    Commit,
    Sync,
    Settle,
    Reopen,
}

/// A step of a random scenario, near the places where the format changes.
pub fn any_step(choices: &mut Choices, size: u64, large: bool) -> Step {
    const EDGES: [u64; 10] = [0, 100, 3584, 3585, 4096, 5000, 8192, 12_288, 20_000, 40_000];
    const FAR: [u64; 4] = [63 * 4096, 64 * 4096, 64 * 4096 + 100, 70 * 4096];
    let place = |choices: &mut Choices| {
        if large && choices.below(3) == 0 { choices.one_of(&FAR) } else { choices.one_of(&EDGES) }
    };
    let at = place(choices);
    match choices.below(16) {
        0..=3 => Step::Write { at: if large { at } else { at.min(size) }, len: 1 + choices.below(9000) as usize },
        4 => Step::Write { at: at / 4096 * 4096, len: 4096 * (1 + choices.below(3) as usize) },
        5 | 6 => Step::Append { len: 1 + choices.below(6000) as usize },
        7 => Step::Truncate(place(choices).max(1)),
        8 => Step::Truncate(size.saturating_sub(choices.below(5000)).max(1)),
        9 => Step::Punch { at, len: 1 + choices.below(20_000) },
        10 => Step::Zero { at: at / 4096 * 4096, len: 4096 },
        11 => Step::Commit,
        12 => Step::Settle,
        13 => Step::Reopen,
        _ => Step::Sync,
    }
}

/// Scenarios that were thought of; each begins with a synced file.
pub fn all() -> Vec<(&'static str, Vec<Step>)> {
    [of_one_kind(), of_many_kinds()].concat()
}

fn of_one_kind() -> Vec<(&'static str, Vec<Step>)> {
    use Step::{Append, Commit, Sync, Truncate, Write};
    let write = |at, len| Write { at, len };
    vec![
        (
            "overwriting with commits",
            [vec![write(0, 20_000), Sync], [write(4096, 8192), Commit].repeat(4), [write(5000, 10), Commit].repeat(3)]
                .concat(),
        ),
        ("overwriting with syncs", [vec![write(0, 20_000), Sync], [write(4096, 8192), Sync].repeat(4)].concat()),
        ("appending with syncs", [Append { len: 1500 }, Sync].repeat(8)),
        ("appending with commits", [vec![write(0, 5000), Sync], [Append { len: 1500 }, Commit].repeat(8)].concat()),
        (
            "appending over a group",
            [vec![write(0, 63 * 4096), Sync], [Append { len: 3000 }, Commit].repeat(4)].concat(),
        ),
        ("inline growing", [Append { len: 500 }, Sync].repeat(9)),
        (
            "inline shrinking",
            vec![write(0, 3500), Sync, Truncate(3000), Commit, Truncate(10), Commit, write(0, 5), Sync],
        ),
        (
            "inline to paged and back",
            vec![
                write(0, 3000),
                Sync,
                Append { len: 9000 },
                Commit,
                Sync,
                Truncate(2000),
                Commit,
                Append { len: 300_000 },
                Commit,
                Truncate(5),
                Sync,
            ],
        ),
    ]
}

fn of_many_kinds() -> Vec<(&'static str, Vec<Step>)> {
    use Step::{Append, Commit, Punch, Reopen, Settle, Sync, Truncate, Write};
    let write = |at, len| Write { at, len };
    vec![
        (
            "shrinking and growing",
            vec![
                write(0, 300_000),
                Sync,
                Truncate(280_000),
                Truncate(270_000),
                Sync,
                Truncate(300_000),
                Commit,
                Truncate(10_000),
                Commit,
                Truncate(300_000),
                Commit,
                write(290_000, 5000),
                Commit,
                Sync,
            ],
        ),
        (
            "cut and written again",
            vec![
                write(0, 40_000),
                Sync,
                Truncate(10_000),
                Append { len: 30_000 },
                Commit,
                Truncate(8192),
                Append { len: 20_000 },
                Commit,
            ],
        ),
        (
            "punched and written again",
            vec![
                write(0, 40_000),
                Sync,
                Punch { at: 4096, len: 16_384 },
                write(8192, 8192),
                Commit,
                Punch { at: 0, len: 9000 },
                Sync,
                write(0, 12_000),
                Commit,
                Reopen,
                Punch { at: 8192, len: 4096 },
                write(8192, 4096),
                Commit,
                write(8192, 4096),
                Commit,
            ],
        ),
        (
            "filling holes",
            vec![
                write(40_000, 10),
                Sync,
                write(0, 4096),
                Commit,
                write(0, 8192),
                Commit,
                Settle,
                write(4096, 9000),
                Sync,
            ],
        ),
        (
            "an old end overwritten twice",
            vec![
                write(0, 5000),
                Sync,
                Append { len: 100 },
                Commit,
                Append { len: 100 },
                Commit,
                Append { len: 5000 },
                Commit,
                write(0, 3),
                Commit,
            ],
        ),
        (
            "opened again unsynced",
            vec![
                write(0, 9000),
                Sync,
                write(0, 9000),
                Commit,
                Reopen,
                write(4096, 100),
                Commit,
                Reopen,
                Append { len: 9000 },
                Reopen,
                write(0, 9000),
                Commit,
            ],
        ),
    ]
}
