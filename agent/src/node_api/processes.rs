//! Processes out of /proc (proc(5)).

use spec::agent::Process;
use std::io;
use std::path::Path;

/// Ticks in a second in /proc: USER_HZ, on every machine of ours.
const TICKS: f64 = 100.0;

/// Those that run, by pid; one that ends meanwhile is left out.
pub fn read(proc: &Path) -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let text = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        processes.extend(text("status").zip(text("stat")).and_then(|(status, stat)| parse(pid, &status, &stat)));
    }
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

fn parse(pid: u32, status: &str, stat: &str) -> Option<Process> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    // The name before it may hold anything, parentheses and spaces too.
    let mut times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut time = || times.next()?.parse::<u64>().ok();
    Some(Process {
        pid,
        name: field("Name")?.to_owned(),
        user_id: u32::try_from(field("Uid").and_then(number)?).ok()?,
        resident: field("VmRSS").and_then(number).unwrap_or(0) * 1024,
        cpu_seconds: (time()? + time()?) as f64 / TICKS,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let status = "Name:\ta) b (c\nUmask:\t0022\nUid:\t200\t0\t200\t200\nVmRSS:\t    2048 kB\n";
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 1 0 5 6 7";
        let wanted = Process { pid: 7, name: "a) b (c".into(), user_id: 200, resident: 2 << 20, cpu_seconds: 1.75 };
        assert_eq!(parse(7, status, stat), Some(wanted));
        assert_eq!(parse(7, "Name:\tx\n", stat), None);
        assert_eq!(parse(7, status, "7 (x) S 1"), None);
    }

    #[test]
    fn this_test_is_among_the_processes() {
        let found = read(Path::new("/proc")).unwrap();
        let own = found.iter().find(|process| process.pid == std::process::id()).unwrap();
        assert!(own.resident > 1 << 20, "{own:?}");
    }
}
