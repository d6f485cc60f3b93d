//! Syslog without blocking.
//!
//! `syslog(3)` blocks while the socket of syslog has no room, for as long as the syslog daemon stands still. So this
//! speaks to that socket itself, in the lines of RFC 3164 that every such daemon understands. On OpenBSD `syslog(3)`
//! hands the line to the kernel, which does not block (`sendsyslog(2)`), and the sandbox allows nothing else.

#[cfg(not(target_os = "openbsd"))]
pub use socket::{Syslog, is_there};

#[cfg(target_os = "openbsd")]
pub use kernel::{Syslog, is_there};

#[cfg(not(target_os = "openbsd"))]
mod socket {
    use super::super::is_full;
    use std::io::{self, ErrorKind};
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixDatagram;

    /// Of Linux; of FreeBSD, for root only, which other users cannot fill; of FreeBSD and NetBSD.
    const PATHS: [&str; 3] = ["/dev/log", "/var/run/logpriv", "/var/run/log"];

    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];

    pub struct Syslog {
        name: String,
        /// None if no syslog daemon was there.
        socket: Option<UnixDatagram>,
    }

    impl Syslog {
        /// Connects at once, so that it works after a chroot. The name goes before each line.
        pub fn open(name: String) -> Syslog {
            // Reads the time zone, which a chroot may lack too.
            local_time();
            let socket = connect().ok();
            Syslog { name, socket }
        }

        /// Sends a line with a priority of `syslog(3)`, 0 to 7. [`ErrorKind::WouldBlock`] if there is no room now,
        /// another error if there is no syslog daemon.
        pub fn send(&mut self, priority: u8, text: &[u8]) -> io::Result<()> {
            let line = line(priority, &local_time(), &self.name, text);
            match self.socket.as_ref().map(|socket| put(socket, &line)) {
                // The syslog daemon may have been restarted.
                Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => {}
                Some(sent) => return sent,
                None => {}
            }
            let socket = self.socket.insert(connect()?);
            put(socket, &line)
        }
    }

    /// Whether a syslog daemon accepts lines.
    pub fn is_there() -> bool {
        connect().is_ok()
    }

    fn connect() -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match PATHS.iter().any(|path| socket.connect(path).is_ok()) {
            true => Ok(socket),
            false => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn put(socket: &UnixDatagram, line: &[u8]) -> io::Result<()> {
        match socket.send(line) {
            Err(error) if is_full(&error) => Err(ErrorKind::WouldBlock.into()),
            sent => sent.map(drop),
        }
    }

    /// All zero if the system cannot convert the time.
    fn local_time() -> libc::tm {
        let mut time = MaybeUninit::zeroed();
        // SAFETY: the first pointer may be null, and the others are to a time and to room for a `tm`, which
        // may be all zero but for a pointer that may be null.
        unsafe {
            let now = libc::time(std::ptr::null_mut());
            libc::localtime_r(&raw const now, time.as_mut_ptr());
            time.assume_init()
        }
    }

    fn line(priority: u8, time: &libc::tm, name: &str, text: &[u8]) -> Vec<u8> {
        let priority = libc::LOG_DAEMON | libc::c_int::from(priority & 7);
        let month = usize::try_from(time.tm_mon).ok();
        let month = month.and_then(|month| MONTHS.get(month)).unwrap_or(&"Jan");
        let head = format!(
            "<{priority}>{month} {:2} {:02}:{:02}:{:02} {name}: ",
            time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec
        );
        [head.as_bytes(), text].concat()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_line_is_formatted_as_in_rfc_3164() {
            let mut time = local_time();
            (time.tm_mon, time.tm_mday) = (1, 3);
            (time.tm_hour, time.tm_min, time.tm_sec) = (4, 56, 7);
            let line = line(5, &time, "name[12]", b"text");
            assert_eq!(line, b"<29>Feb  3 04:56:07 name[12]: text");
        }

        #[test]
        fn a_full_queue_is_reported_as_would_block() {
            let (ours, _theirs) = UnixDatagram::pair().expect("sockets");
            ours.set_nonblocking(true).expect("an option");
            let mut sent = (0..1_000_000).map(|_| put(&ours, b"line"));
            let error = sent.find_map(Result::err).expect("there is a bound");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }
}

#[cfg(target_os = "openbsd")]
mod kernel {
    use std::ffi::CString;
    use std::io;

    pub struct Syslog(());

    /// The kernel accepts lines in any case.
    pub fn is_there() -> bool {
        true
    }

    impl Syslog {
        /// The name goes before each line.
        pub fn open(name: String) -> Syslog {
            let name = CString::new(name).unwrap_or_default();
            // SAFETY: a C string, which the C library keeps, so that it is never freed.
            unsafe { libc::openlog(name.into_raw(), libc::LOG_NDELAY, libc::LOG_DAEMON) };
            Syslog(())
        }

        /// Writes a line with a priority of `syslog(3)`, 0 to 7. The syslog daemon reports lost lines itself.
        pub fn send(&mut self, priority: u8, text: &[u8]) -> io::Result<()> {
            let text: Vec<u8> = text.iter().copied().filter(|&b| b != 0).collect();
            let text = CString::new(text).unwrap_or_default();
            let priority = libc::c_int::from(priority & 7);
            // SAFETY: two C strings that outlive the call; the format takes the one that follows.
            unsafe { libc::syslog(priority, c"%s".as_ptr(), text.as_ptr()) };
            Ok(())
        }
    }
}
