//! A node whose wall clock is wrong: its processes start with a library before libc's that moves `CLOCK_REALTIME` alone.

use super::World;
use std::process::Command;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*libc)(clockid_t, struct timespec *);
    if (!libc) libc = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = libc(clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += OFF_S;
    return failed;
}
"#;

impl World {
    /// What the node starts from now on has a clock that is wrong by so many seconds.
    pub(crate) fn set_clock(&mut self, node: u8, off_s: i64) {
        let source = self.dir.path().join("clock.c");
        let library = self.dir.path().join("clock.so");
        std::fs::write(&source, LIBRARY).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", &format!("-DOFF_S={off_s}L"), "-o"]);
        let done = compiler.arg(&library).arg(&source).arg("-ldl").output().unwrap();
        assert!(done.status.success(), "cc: {}", String::from_utf8_lossy(&done.stderr));
        self.clocks.insert(node, library);
    }
}
