//! A process to which the kernel refuses io_uring, as in most containers: a seccomp filter on the
//! starting thread, which all threads of the role inherit.

#![allow(clippy::unwrap_used)]

mod kit;

use kit::{ECHO, SUM, Setup, WORK};

/// Makes io_uring_setup fail with EPERM on this thread and on those that it starts.
fn refuse_io_uring() {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: 0,
        k,
    };
    let is_setup = libc::sock_filter {
        jf: 1,
        ..statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            u32::try_from(libc::SYS_io_uring_setup).unwrap(),
        )
    };
    let give = |what| statement(libc::BPF_RET | libc::BPF_K, what);
    let mut filter = [
        // The number of the call is the first word of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        is_setup,
        give(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        give(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: takes numbers only.
    let no_new = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(no_new, 0);
    // SAFETY: the program and its filter live across the call, which copies them.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn everything_works_and_status_says_why() {
    let restricted = std::thread::spawn(|| {
        refuse_io_uring();
        let toy = Setup::default().start();
        let mut client = toy.client();
        assert_eq!(client.call(ECHO, b"on epoll").ok(), b"on epoll");
        assert_eq!(client.call(WORK, &[4]).ok(), [8]);
        assert_eq!(client.call(SUM, &[1; 100_000]).ok(), [100_000_u64.to_be_bytes(); 2].concat());
        let status = toy.status();
        assert_eq!(status["capabilities"]["io_uring"], false);
        let reason = status["capabilities"]["io_uring_refused"].as_str().unwrap();
        assert!(reason.contains("not permitted"), "{reason}");
        assert_eq!(status["data_threads"][0]["driver"]["kind"], "epoll");
        toy.stop();
    });
    restricted.join().unwrap();
}

/// The probe found rings, but they are refused later: threads fall to epoll on their own.
#[test]
fn a_refusal_after_the_probe_is_survived() {
    let setup = Setup::default();
    let process = reel_node::Process::new(&[]).unwrap();
    let restricted = std::thread::spawn(move || {
        refuse_io_uring();
        let toy = setup.start_in(process);
        assert_eq!(toy.client().call(ECHO, b"on epoll").ok(), b"on epoll");
        assert_eq!(toy.status()["data_threads"][0]["driver"]["kind"], "epoll");
        toy.stop();
    });
    restricted.join().unwrap();
}
