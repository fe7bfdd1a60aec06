//! What a process sets for itself before it becomes the program under test: core, priority, limits, its end.

use std::io;

use super::checked;

/// Pins the calling thread, and what it starts, to one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE.unsigned_abs() as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a cpu_set_t is an array of integers, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core number was checked against the size of the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set lives across the call and has the size given; 0 is the calling thread.
    checked(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })?;
    Ok(())
}

/// Sets the nice value of the calling process and of its session: where the scheduler groups by session, the value of
/// the process counts only against others of the same one. Below zero needs root.
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    // Not there where the kernel does not group.
    if let Ok(mut group) = std::fs::OpenOptions::new().write(true).open("/proc/self/autogroup") {
        io::Write::write_all(&mut group, nice.to_string().as_bytes())?;
    }
    // SAFETY: takes numbers only; 0 is the calling process.
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// Leaves the terminal's session for one of its own: Ctrl-C is then for the harness alone, and the scheduler weighs the
/// session (autogroup) by itself.
pub(crate) fn own_session() -> io::Result<()> {
    // SAFETY: takes nothing and touches no memory.
    checked(unsafe { libc::setsid() })?;
    Ok(())
}

/// Gives the calling thread, and what it starts, a network of its own, in which nothing is up. Needs root.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: takes a flag only and touches no memory.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Makes the kernel end this process (SIGTERM) when the thread that started it ends: no server outlives a harness that
/// was killed.
pub(crate) fn end_with_parent() -> io::Result<()> {
    // SAFETY: this option takes a signal number only.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
    Ok(())
}

/// Raises the soft limit of open descriptors to the hard one.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives across the call, which fills it.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure lives across the call, which only reads it.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid reads one field of the process and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Sends a signal to a child of ours that is not reaped yet.
pub(crate) fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes numbers only; the caller owns the child, so the number is not another process's.
    checked(unsafe { libc::kill(pid, signal) })?;
    Ok(())
}

/// Bytes of memory that a process and its children have in use (VmRSS).
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(pid) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        sum += kib.map_or(Ok(0), |kib| kib.trim().parse::<u64>())? * 1024;
    }
    Ok(sum)
}

/// Descriptors that a process and its children have open.
pub(crate) fn descriptors(pid: u32) -> anyhow::Result<usize> {
    let mut sum = 0;
    for pid in family(pid) {
        sum += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    }
    Ok(sum)
}

/// A process and all that descend from it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        at += 1;
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    all
}

/// Clock ticks a second, the unit of CPU time in /proc.
pub(crate) fn ticks_per_second() -> u64 {
    // SAFETY: takes a number only.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(100).max(1)
}
