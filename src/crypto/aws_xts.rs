//! AES-256-XTS by AWS-LC, through its C interface: aws-lc-rs offers no XTS, and no crate in safe Rust comes near it
//! where the processor has AVX-512 (docs/decisions/0011-xts.md has the figures).
//!
//! The only `unsafe` of the project is here. What it relies on:
//! - a [`Context`] owns one `EVP_CIPHER_CTX`, made by `EVP_CIPHER_CTX_new` and freed once, when it is dropped; it is
//!   used through `&mut` only, so by one thread at a time;
//! - AWS-LC reads and writes exactly the lengths that it is given: they come from slices, and input and output are
//!   either of one length and apart, or the same bytes, which EVP_Cipher allows;
//! - every return value is looked at. The only failures that are documented are running out of memory and arguments
//!   that this file does not pass (equal halves of a key, units below 16 bytes), hence the panics.
#![expect(unsafe_code, reason = "calls the C interface of AWS-LC; the head of this file says what that relies on")]

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_copy, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex,
    EVP_aes_256_xts,
};
use parking_lot::Mutex;

use super::aead::BLOCK_LEN;
use super::xts::{Xts, tweak};

/// A key schedule for one direction, and the tweak of the moment.
struct Context(NonNull<EVP_CIPHER_CTX>);

// SAFETY: an EVP_CIPHER_CTX belongs to no thread; it must only not be used by two at once, and all use is by `&mut self`.
unsafe impl Send for Context {}

impl Context {
    fn empty() -> Self {
        // SAFETY: takes nothing; gives a fresh context, or null without memory.
        let context = unsafe { EVP_CIPHER_CTX_new() };
        Self(NonNull::new(context).expect("memory for a cipher context"))
    }

    fn new(pair: &[u8; 64], direction: c_int) -> Self {
        let context = Self::empty();
        // SAFETY: the context is ours; the cipher is a static of AWS-LC and takes keys of 64 bytes, which are copied; no
        // engine and, for the moment, no tweak.
        let done = unsafe {
            EVP_CipherInit_ex(
                context.0.as_ptr(),
                EVP_aes_256_xts(),
                ptr::null_mut(),
                pair.as_ptr(),
                ptr::null(),
                direction,
            )
        };
        assert_eq!(done, 1, "the halves of an XTS key differ, which was checked");
        context
    }

    fn copy(&self) -> Self {
        let copy = Self::empty();
        // SAFETY: both contexts are live; the source is only read.
        let done = unsafe { EVP_CIPHER_CTX_copy(copy.0.as_ptr(), self.0.as_ptr()) };
        assert_eq!(done, 1, "memory for a cipher context");
        copy
    }

    /// Runs one data unit of `len` bytes from `from` to `to`.
    ///
    /// # Safety
    /// `from` must be readable and `to` writable for `len` bytes, and both be the same place or apart.
    unsafe fn unit(&mut self, number: u128, from: *const u8, to: *mut u8, len: usize) {
        let tweak = tweak(number);
        // SAFETY: the context is ours and has cipher and key: only the tweak is set, from 16 bytes that are copied. -1
        // keeps the direction.
        let set = unsafe {
            EVP_CipherInit_ex(self.0.as_ptr(), ptr::null(), ptr::null_mut(), ptr::null(), tweak.as_ptr(), -1)
        };
        assert_eq!(set, 1, "setting a tweak needs no memory");
        // SAFETY: the caller vouches for the places.
        let done = unsafe { EVP_Cipher(self.0.as_ptr(), to, from, len) };
        assert_eq!(done, 1, "a unit has 16 bytes or more, and at most 2^24");
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by EVP_CIPHER_CTX_new, freed only here. AWS-LC wipes what it frees.
        unsafe { EVP_CIPHER_CTX_free(self.0.as_ptr()) }
    }
}

/// The contexts of one key and direction: as many as threads have used it at the same time.
struct Contexts {
    idle: Mutex<Vec<Context>>,
}

impl Contexts {
    fn new(pair: &[u8; 64], direction: c_int) -> Self {
        Self { idle: Mutex::new(vec![Context::new(pair, direction)]) }
    }

    fn with(&self, act: impl FnOnce(&mut Context)) {
        let mut idle = self.idle.lock();
        let mut context = match idle.len() {
            // The first one stays, to be copied from.
            1 => idle[0].copy(),
            _ => idle.pop().expect("it has at least one"),
        };
        drop(idle);
        act(&mut context);
        self.idle.lock().push(context);
    }
}

/// AES-256-XTS by AWS-LC.
pub struct Aes256Xts {
    encrypt: Contexts,
    decrypt: Contexts,
}

impl Xts for Aes256Xts {
    const NAME: &'static str = "AWS-LC";

    fn new(pair: &[u8; 64]) -> Self {
        Self { encrypt: Contexts::new(pair, 1), decrypt: Contexts::new(pair, 0) }
    }

    fn encrypt(&self, first: u128, plain: &[u8], sealed: &mut [u8]) {
        assert_eq!(plain.len(), sealed.len(), "XTS keeps the length");
        self.encrypt.with(|context| {
            for (number, (plain, sealed)) in (first..).zip(plain.chunks(BLOCK_LEN).zip(sealed.chunks_mut(BLOCK_LEN))) {
                // SAFETY: two slices of the same length; one is borrowed mutably, so they are apart.
                unsafe { context.unit(number, plain.as_ptr(), sealed.as_mut_ptr(), sealed.len()) }
            }
        });
    }

    fn decrypt(&self, first: u128, bytes: &mut [u8]) {
        self.decrypt.with(|context| {
            for (number, unit) in (first..).zip(bytes.chunks_mut(BLOCK_LEN)) {
                let place = unit.as_mut_ptr();
                // SAFETY: one slice, borrowed mutably, as input and output.
                unsafe { context.unit(number, place, place, unit.len()) }
            }
        });
    }
}
