//! Hints about memory to the processor and the system, and how much of it the process uses.

use super::usage;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Prefetches the cache line that holds the start of this value. Does nothing on processors without such an
/// instruction.
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

/// The resident memory of the process. Linux shows it in a file, which is opened once, before a chroot.
#[derive(Debug, Default)]
pub struct Resident(Option<File>);

impl Resident {
    pub fn open() -> Resident {
        Resident(File::open("/proc/self/statm").ok())
    }

    /// Bytes now, or their maximum so far where the system does not show that file.
    pub fn bytes(&self) -> u64 {
        let now = self.0.as_ref().and_then(resident_pages);
        // SAFETY: the call has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        match (now, u64::try_from(page)) {
            (Some(pages), Ok(page)) => pages.saturating_mul(page),
            _ => max_resident(),
        }
    }
}

/// The second number of a line.
fn resident_pages(statm: &File) -> Option<u64> {
    let mut line = [0; 64];
    let length = statm.read_at(&mut line, 0).ok()?;
    let line = std::str::from_utf8(line.get(..length)?).ok()?;
    line.split(' ').nth(1)?.parse().ok()
}

fn max_resident() -> u64 {
    let kib = usage().map(|usage| u64::try_from(usage.ru_maxrss));
    kib.map_or(0, |kib| kib.unwrap_or(0) * 1024)
}

/// Has all threads allocate from one heap. glibc gives each thread its own, which costs the table 4 % more memory with
/// four threads, and 64 MB of address space each.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn use_one_heap() {
    // SAFETY: no pointers. A refusal changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn use_one_heap() {}

/// Returns free memory to the system. glibc keeps what lies below memory in use: after a million torrents with a peer
/// each had gone, a table kept 39 of 63 MB. Other allocators return it by themselves.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn return_free() {
    // SAFETY: no pointers.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_free() {}

/// The smallest page size of all systems.
const PAGE: usize = 4096;

/// Returns the memory behind these bytes to the system. They stay valid, with unspecified values.
///
/// An allocator keeps memory that is freed in the middle of the heap. For large buffers that are about to be freed,
/// this returns all but their ends at once.
pub fn discard(bytes: &mut [u8]) {
    let start = bytes.as_mut_ptr().align_offset(PAGE);
    let Some(whole) = bytes.get_mut(start..) else {
        return;
    };
    let length = whole.len() / PAGE * PAGE;
    // SAFETY: the range is whole pages of memory that is ours alone. Its content afterwards, old values or zeros, is
    // valid for bytes. Where pages are larger than 4 KiB the call may fail, and then nothing happens.
    unsafe {
        libc::madvise(whole.as_mut_ptr().cast(), length, DISCARD);
    }
}

#[cfg(target_os = "linux")]
const DISCARD: libc::c_int = libc::MADV_DONTNEED;

#[cfg(not(target_os = "linux"))]
const DISCARD: libc::c_int = libc::MADV_FREE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_grows_with_allocations() {
        let resident = Resident::open();
        let before = resident.bytes();
        assert!(before > 100_000 && before < 1 << 40, "{before}");
        // Other tests of this process may give back as much at the same time, but not each time.
        let has_grown = (0..20).any(|_| {
            let before = resident.bytes();
            let block = vec![1_u8; 64 << 20];
            let after = resident.bytes();
            assert!(Resident::default().bytes() >= block.len() as u64);
            after > before.saturating_add(32 << 20)
        });
        assert!(has_grown);
    }

    #[test]
    fn bytes_beside_discarded_pages_are_untouched() {
        let mut bytes = vec![7_u8; 20 * PAGE];
        let (left, rest) = bytes.split_at_mut(100);
        let (middle, right) = rest.split_at_mut(10 * PAGE + 50);
        discard(middle);
        assert!(left.iter().chain(&*right).all(|&b| b == 7));
        middle.fill(9);
        assert!(middle.iter().all(|&b| b == 9));
        discard(&mut []);
        discard(&mut right[..10]);
    }
}
