//! What programs do, over and over in the same way.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

pub struct Operation {
    pub name: &'static str,
    /// The daemon is started anew after `prepare`.
    pub cold: bool,
    pub times: u32,
    pub prepare: fn(&Path, u32),
    pub run: fn(&Path, u32),
}

const TIMES: u32 = 40;
const ENTRIES: u32 = 100;
const CONTENT: [u8; 1024] = [7; 1024];

pub const OPERATIONS: &[Operation] = &[
    of_files("create, write 1 KiB, close", false, nothing, create),
    of_files("open, read, close; cold", true, create, read),
    of_files("open, read, close; warm", false, create_and_read, read),
    of_files("stat; cold", true, create, stat),
    of_files("stat; warm", false, create_and_stat, stat),
    of_files("rename", false, create, rename),
    of_files("unlink", false, create, unlink),
    of_files("mkdir", false, nothing, mkdir),
    Operation { name: "list 100 names; cold", cold: true, times: 5, prepare: fill, run: list },
    Operation { name: "list 100 names; warm", cold: false, times: 5, prepare: fill_and_list, run: list },
];

const fn of_files(name: &'static str, cold: bool, prepare: fn(&Path, u32), run: fn(&Path, u32)) -> Operation {
    Operation { name, cold, times: TIMES, prepare, run }
}

fn file(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("file{number}"))
}

fn nothing(_: &Path, _: u32) {}

fn create(folder: &Path, number: u32) {
    File::create_new(file(folder, number)).and_then(|mut file| file.write_all(&CONTENT)).expect("create");
}

fn read(folder: &Path, number: u32) {
    let mut bytes = [0; 2048];
    let read = File::open(file(folder, number)).and_then(|mut file| file.read(&mut bytes)).expect("read");
    assert_eq!(bytes[..read], CONTENT, "what was written");
}

fn create_and_read(folder: &Path, number: u32) {
    create(folder, number);
    read(folder, number);
}

fn stat(folder: &Path, number: u32) {
    assert_eq!(fs::symlink_metadata(file(folder, number)).expect("stat").len(), CONTENT.len() as u64);
}

fn create_and_stat(folder: &Path, number: u32) {
    create(folder, number);
    stat(folder, number);
}

fn rename(folder: &Path, number: u32) {
    fs::rename(file(folder, number), folder.join(format!("renamed{number}"))).expect("rename");
}

fn unlink(folder: &Path, number: u32) {
    fs::remove_file(file(folder, number)).expect("unlink");
}

fn mkdir(folder: &Path, number: u32) {
    fs::create_dir(folder.join(format!("folder{number}"))).expect("mkdir");
}

fn fill(folder: &Path, number: u32) {
    mkdir(folder, number);
    (0..ENTRIES).for_each(|entry| create(&folder.join(format!("folder{number}")), entry));
}

fn list(folder: &Path, number: u32) {
    let names: Result<Vec<_>, _> = fs::read_dir(folder.join(format!("folder{number}"))).expect("list").collect();
    assert_eq!(names.expect("names").len(), ENTRIES as usize);
}

fn fill_and_list(folder: &Path, number: u32) {
    fill(folder, number);
    list(folder, number);
}
