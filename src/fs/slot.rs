//! The content of an open file as it comes and goes: an empty file has none until it is given a key, and a file whose CMK
//! refuses has none until it is opened again.

use std::sync::Arc;

use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};

use super::backing::Backing;
use super::error::Result;
use crate::content::FileContent;

type Content = FileContent<Arc<Backing>>;

/// The content, as long as this is held. Not to be nested: whoever shuts the content waits for all who hold it.
pub type ContentGuard<'a> = MappedRwLockReadGuard<'a, Content>;

/// What became of the content.
enum Held {
    /// The file is empty and has no key yet.
    Unkeyed,
    /// Everybody may use it.
    Open(Content),
    /// Its CMK refuses: only what was written before is still put in order.
    Fading(Content),
    /// Its CMK refused: nothing of it is in memory.
    Dark,
}

/// What a user of the file finds.
pub enum Found<'a> {
    /// The file is empty and has no key yet.
    Unkeyed,
    /// This.
    Open(ContentGuard<'a>),
    /// It must be opened again first.
    Shut,
}

/// Holds the content of one open file.
pub struct Slot(RwLock<Held>);

impl Default for Slot {
    fn default() -> Self {
        Self(RwLock::new(Held::Unkeyed))
    }
}

impl Slot {
    /// The content for those who put it in order.
    pub fn get(&self) -> Option<ContentGuard<'_>> {
        RwLockReadGuard::try_map(self.0.read(), |held| match held {
            Held::Open(content) | Held::Fading(content) => Some(content),
            Held::Unkeyed | Held::Dark => None,
        })
        .ok()
    }

    /// The content for those who use it.
    pub fn find(&self) -> Found<'_> {
        let held = self.0.read();
        if matches!(*held, Held::Unkeyed) {
            return Found::Unkeyed;
        }
        let open = RwLockReadGuard::try_map(held, |held| match held {
            Held::Open(content) => Some(content),
            _ => None,
        });
        open.map_or(Found::Shut, Found::Open)
    }

    /// Whether the file is empty and has no key yet.
    pub fn is_unkeyed(&self) -> bool {
        matches!(*self.0.read(), Held::Unkeyed)
    }

    /// Whether its CMK refuses, or did so when that was last asked.
    pub fn is_shut(&self) -> bool {
        matches!(*self.0.read(), Held::Fading(_) | Held::Dark)
    }

    /// Puts content in. What is there stays.
    pub fn fill(&self, content: Content) {
        let mut held = self.0.write();
        if matches!(*held, Held::Unkeyed | Held::Dark) {
            *held = Held::Open(content);
        }
    }

    /// Users are refused from now on. Whether there was something to refuse.
    pub fn fade(&self) -> bool {
        self.swap(|held| match held {
            Held::Open(content) => (Held::Fading(content), true),
            other => (other, false),
        })
    }

    /// Users are let in again. Whether they are: what is dark must be filled first.
    pub fn brighten(&self) -> bool {
        self.swap(|held| match held {
            Held::Fading(content) => (Held::Open(content), true),
            other => (other, false),
        })
    }

    /// Drops fading content with its keys, after `finish` has put the last of it in order. Nobody uses it meanwhile.
    ///
    /// # Errors
    /// Those of `finish`; the content stays then.
    pub fn drop_content(&self, finish: impl FnOnce(&Content) -> Result<()>) -> Result<()> {
        let mut held = self.0.write();
        if let Held::Fading(content) = &*held {
            finish(content)?;
            *held = Held::Dark;
        }
        Ok(())
    }

    fn swap(&self, change: impl FnOnce(Held) -> (Held, bool)) -> bool {
        let mut held = self.0.write();
        let (next, done) = change(std::mem::replace(&mut *held, Held::Unkeyed));
        *held = next;
        done
    }
}
