//! Asking for memory before it is needed.
//!
//! Most of what a core touches for a trace lies where it left it seconds ago, so in no cache. A load there stops
//! the core for 100 to 250 ns on a virtual machine (nested page tables); asked for in time, eight to twenty such
//! lines come at once. Only loops that know their next addresses early gain, so these are few.

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;

/// Asks for the lines that hold `value`.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let begin = std::ptr::from_ref(value).cast::<u8>();
    let lines = size_of::<T>().div_ceil(LINE_BYTES);
    for line in 0..lines {
        prefetch_line(begin.wrapping_add(line * LINE_BYTES));
    }
}

/// Asks for the lines of `words`, which begin with a line.
#[inline(always)]
pub fn prefetch_words(words: &[u64]) {
    for line in words.chunks(LINE_BYTES / size_of::<u64>()) {
        prefetch_line(line.as_ptr().cast());
    }
}

/// Asks for the lines of `bytes`.
#[inline(always)]
pub fn prefetch_bytes(bytes: &[u8]) {
    for line in bytes.chunks(LINE_BYTES) {
        prefetch_line(line.as_ptr());
    }
}

#[inline(always)]
fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint without effect on memory or registers, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
