//! Telling the processor what will be read soon.

/// Asks for the cache line that holds the start of this value. It is a hint: where there is no such
/// instruction, nothing happens.
pub fn prefetch<T: ?Sized>(value: &T) {
    let address = (&raw const *value).cast::<u8>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of every x86-64, reads nothing and cannot fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(address.cast(), _MM_HINT_T0);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the instruction is part of every AArch64, reads nothing and cannot fault.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
