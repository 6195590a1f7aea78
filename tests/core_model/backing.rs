//! What may lie in the backing tree of a volume that was unmounted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use kmsfs::envelope::{DIRECTORY_SIDECAR, FILE_SIDECAR, NameForm, Placement, sidecar_name};
use kmsfs::fs::FileKind;

use crate::kernel::placement;
use crate::tree::Tree;

/// The length of a backing symlink whose target has another home.
const AWAY: usize = 29;
/// More has another home on every store.
const SHORT_MAX: usize = 3043;

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Panics if anything is there that no name of `tree` needs.
pub fn check(root: &Path, tree: &Tree, form: NameForm) {
    let mut homes = BTreeSet::new();
    let (mut waiting, mut stored) = (vec![root.to_path_buf()], 0);
    let (mut sidecars, mut with_sidecar) = (0, 0);
    while let Some(dir) = waiting.pop() {
        let found = names(&dir);
        for name in &found {
            let path = dir.join(name);
            if dir == root && name == ".kmsfs" {
                continue;
            }
            if let Some(hash) = name.strip_prefix(".kmsfs.n.") {
                let long = format!("{}{hash}", prefix(form));
                assert!(found.contains(&long), "{}: a side symlink without its name", path.display());
                continue;
            }
            if placement() == Placement::Sidecar && (name == DIRECTORY_SIDECAR || name.starts_with(FILE_SIDECAR)) {
                sidecars += usize::from(name != DIRECTORY_SIDECAR);
                continue;
            }
            assert!(!name.starts_with(".kmsfs"), "{}: left behind", path.display());
            stored += 1;
            let expected = usize::from(found.contains(&sidecar_name(name.as_bytes())));
            with_sidecar += expected;
            if is_long(name, form) {
                let side = format!(".kmsfs.n.{}", &name[1..]);
                assert!(found.contains(&side), "{}: a long name without its side symlink", path.display());
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            let kind = metadata.file_type();
            if placement() == Placement::Sidecar && kind.is_file() && metadata.len() > 0 {
                assert_eq!(expected, 1, "{}: a file without its sidecar", path.display());
            }
            if kind.is_dir() {
                let has_key = path.join(DIRECTORY_SIDECAR).exists();
                assert_eq!(has_key, placement() == Placement::Sidecar, "{}", path.display());
                waiting.push(path);
            } else if kind.is_symlink() {
                let text = fs::read_link(&path).unwrap().into_os_string().into_vec();
                if text.len() == AWAY && text[0] == b'L' {
                    homes.insert(String::from_utf8(text[1..23].to_vec()).unwrap());
                }
            }
        }
    }
    assert_eq!(stored, tree.names().len(), "stored names");
    assert_eq!(sidecars, with_sidecar, "sidecars, and names that they belong to");
    assert_eq!(names(&root.join(".kmsfs/links")), homes, "homes of long symlinks");
    let long = |id: &usize| tree.node(*id).kind == FileKind::Symlink && tree.node(*id).bytes.len() > SHORT_MAX;
    let wanted: BTreeSet<usize> = tree.names().into_iter().map(|(_, id)| id).filter(long).collect();
    assert!(homes.len() >= wanted.len(), "{} homes of {} long symlinks", homes.len(), wanted.len());
}

fn prefix(form: NameForm) -> char {
    if form == NameForm::Base64Url { 'L' } else { 'l' }
}

fn is_long(name: &str, form: NameForm) -> bool {
    name.starts_with(prefix(form)) && name.len() == if form == NameForm::Base64Url { 33 } else { 40 }
}
