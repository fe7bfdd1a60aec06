//! Refusing io_uring to one process: a seccomp filter that its child installs between fork and exec. The
//! machine-wide sysctl would hit every other process too.

use std::{io, os::unix::process::CommandExt, process::Command};

/// What the kernel hands a filter: `seccomp_data`, of which only these two are read.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// The `AUDIT_ARCH_…` of this build: numbers of system calls mean nothing without it.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// Makes `io_uring_setup` answer EPERM in the command's process and all that it starts, as container runtimes do.
/// Needs no privilege: the process gives up gaining any (`no_new_privs`), which the filter requires.
pub fn refuse_io_uring(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec `install` only calls prctl with memory of its own stack; it allocates nothing
    // and takes no lock.
    unsafe { command.pre_exec(install) }
}

fn install() -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump_equal = |k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        statement(load, OFFSET_ARCH),
        jump_equal(ARCH, 0, 3),
        statement(load, OFFSET_NUMBER),
        jump_equal(libc::SYS_io_uring_setup as u32, 0, 1),
        statement(give, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(give, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: PR_SET_NO_NEW_PRIVS takes four numbers and touches no memory.
    let given_up = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if given_up != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `filter` and the program it points to outlive the call; the kernel copies both.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0)
    };
    if installed != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // A child of this test binary runs the probe below and says what it met.
    fn probe(refused: bool) -> String {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "seccomp::tests::child", "--nocapture", "--ignored"]);
        if refused {
            refuse_io_uring(&mut command);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.split("met: ").nth(1));
        line.unwrap_or_else(|| panic!("no probe line in {text}")).to_owned()
    }

    #[test]
    #[ignore = "run by the test beside it, in a process of its own"]
    fn child() {
        // SAFETY: a null pointer is refused by the kernel with EFAULT or EINVAL before anything is made.
        let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
        assert!(made < 0);
        println!("met: {:?}", io::Error::last_os_error().raw_os_error());
    }

    #[test]
    fn only_the_filtered_process_is_refused() {
        assert_eq!(probe(true), format!("{:?}", Some(libc::EPERM)));
        let plain = probe(false);
        // A container may refuse it to everybody; then there is nothing to tell apart.
        if plain == probe(true) {
            println!("skipped: this machine refuses io_uring to every process");
        } else {
            assert_eq!(plain, format!("{:?}", Some(libc::EFAULT)));
        }
    }
}
