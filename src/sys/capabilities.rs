//! Linux's capabilities, into which the rights of root are divided. Other systems have none.
//!
//! They belong to a thread: call this while there is one.

#[cfg(target_os = "linux")]
pub use linux::keep_only;

/// To become another group, and another user.
pub const SETGID: u32 = 6;
pub const SETUID: u32 = 7;

/// Gives up all capabilities but these, and for good: neither this process nor one that it starts can regain them. As
/// another user than root it has none to keep, unless the service manager gave it some.
#[cfg(not(target_os = "linux"))]
pub fn keep_only(_: &[u32]) -> std::io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use super::super::check;
    use std::io;

    /// `_LINUX_CAPABILITY_VERSION_3`, with 64 bits in two halves.
    const VERSION: u32 = 0x2008_0522;

    #[repr(C)]
    struct Header {
        version: u32,
        process: libc::c_int,
    }

    #[derive(Clone, Copy, Default, PartialEq)]
    #[repr(C)]
    struct Half {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }

    pub fn keep_only(kept: &[u32]) -> io::Result<()> {
        // A program that is executed would get no more than the bounding set. Reducing that takes a capability itself,
        // which another user than root lacks; the sets below are reduced in any case.
        for capability in 0..64_u8 {
            let capability = libc::c_ulong::from(capability);
            // SAFETY: no pointers. It fails for capabilities that the kernel does not know.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        // The ambient set is part of the inheritable one, and ends with it.
        let kept = kept.iter().fold(0, |set, one| set | 1 << one);
        let before = get()?;
        let mut sets = before;
        for (half, kept) in sets.iter_mut().zip([kept, 0]) {
            half.permitted &= kept;
            half.effective = half.permitted;
            half.inheritable = 0;
        }
        // A sandbox around this one may forbid the call.
        match sets == before {
            true => Ok(()),
            false => call(libc::SYS_capset, &mut sets),
        }
    }

    fn get() -> io::Result<[Half; 2]> {
        let mut sets = [Half::default(); 2];
        call(libc::SYS_capget, &mut sets).map(|()| sets)
    }

    /// `capget(2)` or `capset(2)`, for this process. C libraries lack them.
    fn call(number: libc::c_long, sets: &mut [Half; 2]) -> io::Result<()> {
        let mut header = Header {
            version: VERSION,
            process: 0,
        };
        let sets = sets.as_mut_ptr();
        // SAFETY: pointers to a header and to two halves, as its version says, that outlive the call.
        let result = unsafe { libc::syscall(number, &raw mut header, sets) };
        check(libc::c_int::from(result == 0) - 1).map(drop)
    }

    #[cfg(test)]
    mod tests {
        use super::super::*;
        use super::*;

        fn permitted() -> u32 {
            get().expect("can be read")[0].permitted
        }

        /// Capabilities belong to a thread, so this takes none from other tests.
        #[test]
        fn only_those_to_keep_are_left_and_none_comes_back() {
            let all = permitted();
            keep_only(&[SETUID, SETGID]).expect("giving up is allowed");
            let kept = 1 << SETUID | 1 << SETGID;
            assert_eq!(permitted(), all & kept);
            let [low, high] = get().expect("can be read");
            assert_eq!([low.effective, high.effective], [all & kept, 0]);
            assert_eq!([low.inheritable, high.inheritable], [0; 2]);
            keep_only(&[]).expect("giving up is allowed");
            assert_eq!(permitted(), 0);
            let mut before = [low, high];
            assert_eq!(
                call(libc::SYS_capset, &mut before).is_err(),
                all & kept != 0
            );
            // SAFETY: no pointers. The first capability of the bounding set.
            let bound = unsafe { libc::prctl(libc::PR_CAPBSET_READ, 0, 0, 0, 0) };
            assert!(bound == 0 || all == 0, "another user may not reduce it");
        }
    }
}
