//! How the C library's allocator takes memory from the kernel.

#![allow(unsafe_code, reason = "mallopt(3) has no safe wrapper")]

/// Steps in which the heap grows, in bytes.
#[cfg(target_env = "gnu")]
const GROW: i32 = 1 << 20;
/// What is free at the end of the heap beyond this is given back, in bytes.
#[cfg(target_env = "gnu")]
const KEEP: i32 = 16 << 20;

/// One heap for all threads, which grows by large steps. glibc else gives each thread its own, which it enlarges by
/// mprotect(2) for just what is asked for, and cuts as eagerly: one call for every sealed block that waits in memory. To be
/// called before there are threads. Other C libraries have nothing of the kind.
pub fn use_one_heap() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_TOP_PAD, GROW), (libc::M_TRIM_THRESHOLD, KEEP)] {
        // SAFETY: mallopt takes two numbers, and is called before any other thread could allocate. What it does not know
        // it refuses.
        unsafe {
            libc::mallopt(parameter, value);
        }
    }
}
