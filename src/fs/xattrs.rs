//! Extended attributes: `user.*` sealed, the others as they are, ours hidden.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::attr::{CAPABILITY, SETGID};
use super::dirs::{Dir, stored};
use super::error::Result;
use super::inode::Attributes;
use super::io::OpenMode;
use super::{Changes, EncryptedFs, Error, Ino};
use crate::crypto::DataKey;
use crate::envelope::Envelope;
use crate::kms::{Caller, Requester};
use crate::names::{NameError, Xattrs};
use crate::sys::dir::Access;
use crate::sys::xattr::{Mode, Target};
use crate::sys::{self, Errno, FileKind};

const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// An object whose attributes are wanted.
struct Owner {
    fd: Arc<OwnedFd>,
    /// Its descriptor is only a place: symlinks and special files, and what may not be read.
    place_only: bool,
    dir: Option<Arc<Dir>>,
}

impl Owner {
    fn target(&self) -> Target<'_> {
        if self.place_only { Target::OPath(self.fd.as_fd()) } else { Target::Open(self.fd.as_fd()) }
    }
}

impl EncryptedFs {
    /// The value of an attribute; `None` if there is none.
    pub fn getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if !name.starts_with(USER) && self.lacks_attribute(ino, name) {
            return Ok(None);
        }
        self.with_owner(ino, 0o400, |owner| {
            let Some(plain) = name.strip_prefix(USER) else {
                return Ok(sys::xattr::get(owner.target(), name)?);
            };
            let Some(xattrs) = self.xattrs_of(caller, ino, owner)? else { return Ok(None) };
            let Some(value) = sys::xattr::get(owner.target(), stored_name(&xattrs, plain)?.as_bytes())? else {
                return Ok(None);
            };
            let opened = xattrs.open_value(plain, &value);
            Ok(Some(opened.map_err(|_| Error::Forged("an extended attribute of this file"))?))
        })
        .map_err(|error| self.report(ino, error))
    }

    /// Whether the object has no attributes but those of users, or not this one. It is looked at once, and then known for as
    /// long as the kernel knows its name.
    fn lacks_attribute(&self, ino: Ino, name: &[u8]) -> bool {
        match self.inodes.attributes(ino) {
            Attributes::None => return true,
            Attributes::NoCapability if name == CAPABILITY => return true,
            _ => {}
        }
        // Other stores may have attributes that they do not list.
        if !self.keeps_numbers {
            return false;
        }
        let changes = self.inodes.attribute_changes();
        let listed = if let Some(file) = self.files.peek(ino) {
            sys::xattr::list(Target::Open(file.backing.fd().as_fd())).map_err(Error::from)
        } else if let Some(dir) = self.dirs.peek(ino) {
            sys::xattr::list(Target::Open(dir.fd())).map_err(Error::from)
        } else {
            self.at_location(ino, |parent, name, _| Ok(sys::xattr::list_at(parent.fd(), stored(name))?))
        };
        let none = listed.is_ok_and(|names| names.iter().all(|name| name.starts_with(USER)));
        if none {
            self.inodes.learned(ino, Attributes::None, changes);
        }
        none
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// EEXIST or ENODATA as `mode` demands.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8], mode: Mode) -> Result<()> {
        self.writable()?;
        self.inodes.attributes_change();
        if name == CAPABILITY
            && let Some(file) = self.files.peek(ino)
        {
            // What was written before must not take it away later.
            file.finish().map_err(|error| self.report(ino, error))?;
        }
        let set = self.with_owner(ino, 0o600, |owner| {
            let Some(plain) = name.strip_prefix(USER) else {
                sys::xattr::set(owner.target(), name, value, mode)?;
                if name == DEFAULT_ACL
                    && let Some(dir) = &owner.dir
                {
                    dir.forget_default_acl();
                }
                return Ok(());
            };
            let xattrs = self.xattrs_for_writing(caller, ino, owner)?;
            let sealed = xattrs.seal_value(plain, value);
            Ok(sys::xattr::set(owner.target(), stored_name(&xattrs, plain)?.as_bytes(), &sealed, mode)?)
        });
        self.inodes.attributes_changed(ino);
        let set = if name == ACCESS_ACL { set.and_then(|()| self.end_setgid(caller, ino)) } else { set };
        set.map_err(|error| self.report(ino, error))
    }

    /// Who is not in the group of an object may not keep it setgid when setting its ACL, as when setting its mode. The
    /// kernel tells a FUSE server of that only in a form of the request that fuser does not know; where the daemon is
    /// not root, the backing store sees to it.
    fn end_setgid(&self, caller: &Caller, ino: Ino) -> Result<()> {
        if self.uid != 0 || caller.uid == 0 {
            return Ok(());
        }
        let stat = self.getattr(ino, None)?.stat;
        let in_group = || stat.gid == caller.gid || sys::process::has_group(caller.pid, stat.gid);
        if stat.perm & SETGID == 0 || in_group() {
            return Ok(());
        }
        self.setattr(caller, ino, &Changes::of_perm(stat.perm & !SETGID), None).map(drop)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA if there is none.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<()> {
        self.writable()?;
        self.with_owner(ino, 0o600, |owner| {
            let removed = match name.strip_prefix(USER) {
                None => sys::xattr::remove(owner.target(), name)?,
                Some(plain) => match self.xattrs_of(caller, ino, owner)? {
                    Some(xattrs) => sys::xattr::remove(owner.target(), stored_name(&xattrs, plain)?.as_bytes())?,
                    None => false,
                },
            };
            if name == DEFAULT_ACL
                && let Some(dir) = &owner.dir
            {
                dir.forget_default_acl();
            }
            if removed { Ok(()) } else { Err(Errno::NODATA.into()) }
        })
    }

    /// The names of all attributes, each ended by a zero byte. Ours are not among them.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.with_owner(ino, 0o400, |owner| {
            let mut names = Vec::new();
            let mut xattrs = None;
            for name in sys::xattr::list(owner.target())? {
                if name.starts_with(TRUSTED) && caller.uid != 0 {
                    // xattr(7): invisible without privileges, which the daemon has.
                    continue;
                }
                if !name.starts_with(USER) {
                    names.extend_from_slice(&name);
                    names.push(0);
                    continue;
                }
                if name == crate::envelope::ATTRIBUTE.as_bytes() {
                    continue;
                }
                if xattrs.is_none() {
                    xattrs = self.xattrs_of(caller, ino, owner)?;
                }
                let plain = xattrs.as_ref().and_then(|xattrs| xattrs.decode_name(&name));
                if let Some(plain) = plain {
                    names.extend_from_slice(USER);
                    names.extend_from_slice(&plain);
                    names.push(0);
                }
            }
            Ok(names)
        })
        .map_err(|error| self.report(ino, error))
    }

    /// Calls `act` with the object `ino`, open or as a place, with rights that suffice for an owner.
    fn with_owner<T>(&self, ino: Ino, bits: u32, act: impl Fn(&Owner) -> Result<T>) -> Result<T> {
        if let Some(file) = self.files.peek(ino) {
            let owner = Owner { fd: file.backing.fd(), place_only: false, dir: None };
            return match act(&owner) {
                Err(Error::Sys(Errno::ACCESS)) => self
                    .at_location(ino, |parent, name, _| self.relaxed(parent.fd(), stored(name), bits, || act(&owner))),
                other => other,
            };
        }
        if ino == Ino::ROOT || self.inodes.kind(ino) == Some(FileKind::Directory) {
            let dir = self.dir(ino)?;
            let fd = sys::dir::open_dir(dir.fd(), b".", Access::Place)?;
            return act(&Owner { fd: Arc::new(fd), place_only: true, dir: Some(dir) });
        }
        self.at_location(ino, |parent, name, _| {
            let fd = Arc::new(sys::dir::open(parent.fd(), stored(name), Access::Place)?);
            let owner = Owner { fd, place_only: true, dir: None };
            self.relaxed(parent.fd(), stored(name), bits, || act(&owner))
        })
    }

    /// The sealer of an object's attributes; `None` if it has no key, and so no attributes of users.
    fn xattrs_of(&self, caller: &Caller, ino: Ino, owner: &Owner) -> Result<Option<Xattrs>> {
        let path = || self.inodes.path(ino);
        let requester = Requester::user(caller, &path);
        if let Some(dir) = &owner.dir {
            self.require_for_dir(requester, dir)?;
            return dir.xattrs().map(Some);
        }
        let stored = sys::xattr::get(owner.target(), crate::envelope::ATTRIBUTE.as_bytes())?;
        if let Some(sidecars) = self.envelopes.sidecars() {
            return self.sidecar_xattrs(requester, ino, sidecars);
        }
        let Some(stored) = stored else { return Ok(None) };
        let envelope = Envelope::parse(&stored)?;
        let _held = self.places.hold(ino);
        let place = self.place_by_name(ino)?;
        let key: DataKey = self.sealer(requester).unlock(&envelope, place)?;
        Ok(Some(Xattrs::new(&key)))
    }

    fn xattrs_for_writing(&self, caller: &Caller, ino: Ino, owner: &Owner) -> Result<Xattrs> {
        if let Some(xattrs) = self.xattrs_of(caller, ino, owner)? {
            return Ok(xattrs);
        }
        match self.inodes.kind(ino) {
            Some(FileKind::File) | None => {}
            // user(7) attributes are for files and directories; xattr(7) says EPERM for the rest.
            Some(_) => return Err(Errno::PERM.into()),
        }
        let (file, _) = self.acquire_file(caller, ino, OpenMode::WRITE)?;
        let made = {
            let _held = self.places.hold(ino);
            self.owner_key(&file)
        };
        self.release_file(&file);
        Ok(Xattrs::new(&made?.0))
    }
}

/// xattr(7) has ERANGE for names that are too long.
fn stored_name(xattrs: &Xattrs, plain: &[u8]) -> Result<String> {
    match xattrs.encode_name(plain) {
        Err(NameError::TooLong) => Err(Errno::RANGE.into()),
        other => Ok(other?),
    }
}
