//! Holes of files that are larger than anybody can look through.

use std::sync::atomic::Ordering;

use super::backing::{create, read_all, reopen};
use crate::content::geometry::GROUP;
use crate::content::{Durability, MAX_SIZE};

#[test]
fn data_that_waits_in_memory_is_found_before_what_is_stored() {
    let file = create(Durability::Atomic);
    file.truncate(8 * GROUP).unwrap();
    file.write(7 * GROUP, &[7; 4096]).unwrap();
    file.sync(true).unwrap();
    let file = reopen(file.backing().snapshot()).unwrap();
    file.write(3 * GROUP, &[3; 4096]).unwrap();
    assert_eq!(file.seek_data(GROUP).unwrap(), Some(3 * GROUP));
    assert_eq!(file.seek_hole(3 * GROUP).unwrap(), Some(3 * GROUP + 4096));
    assert_eq!(file.seek_data(3 * GROUP + 4096).unwrap(), Some(7 * GROUP));
    assert_eq!(file.seek_data(7 * GROUP + 4096).unwrap(), None);
}

#[test]
fn punching_passes_over_what_is_a_hole() {
    let file = create(Durability::Atomic);
    let size = MAX_SIZE - 5;
    file.truncate(size).unwrap();
    file.write(MAX_SIZE / 2, &[7; 4096]).unwrap();
    file.commit().unwrap();
    let file = reopen(file.backing().snapshot()).unwrap();
    file.write(3 * GROUP + 4096, &[7; 8192]).unwrap();
    file.backing().asked.store(0, Ordering::Relaxed);
    file.punch_hole(0, MAX_SIZE).unwrap();
    assert!(file.backing().asked.load(Ordering::Relaxed) < 20);
    assert_eq!((file.size(), file.seek_data(0).unwrap()), (size, None));
    file.zero_range(5, size - 5, true).unwrap();
    file.commit().unwrap();
    file.truncate(4 * GROUP).unwrap();
    assert!(read_all(&file).unwrap().iter().all(|byte| *byte == 0));
}
