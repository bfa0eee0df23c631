//! The simulator's servers, whose replication runs by itself as real ones' does.

use crate::scripts::Trio;
use elpis_sim::mariadb::{Outcome, Role, Servers, Stopped};

pub(crate) struct Twin {
    servers: Servers,
    seen: Vec<String>,
}

impl Twin {
    pub(crate) fn new() -> Twin {
        Twin { servers: Servers::new(3), seen: Vec::new() }
    }

    fn run(&mut self) {
        while (0..3).any(|server| self.servers.receive(server) | self.servers.apply(server)) {}
    }
}

impl Trio for Twin {
    fn start(&mut self, server: usize, role: Role, id: u32) {
        self.servers.start(server, role, id);
    }

    fn kill(&mut self, server: usize) {
        self.servers.kill(server);
    }

    fn terminate(&mut self, server: usize) {
        self.servers.terminate(server);
    }

    fn insert(&mut self, server: usize, row: u64) -> Outcome {
        self.servers.insert(server, row);
        self.outcome(row)
    }

    fn outcome(&mut self, row: u64) -> Outcome {
        self.run();
        self.servers.outcome(row)
    }

    fn read_only(&mut self, server: usize, on: bool) -> bool {
        self.servers.set_read_only(server, on)
    }

    fn semi_master(&mut self, server: usize, on: bool) {
        self.servers.set_semi_master(server, on);
    }

    fn set_id(&mut self, server: usize, id: u32) {
        self.servers.set_id(server, id);
    }

    fn semi_slave(&mut self, server: usize, on: bool) {
        self.servers.set_semi_slave(server, on);
    }

    fn follow(&mut self, server: usize, source: usize, demote: bool) {
        self.servers.follow(server, source, demote);
    }

    fn start_io(&mut self, server: usize) {
        self.servers.start_io(server);
    }

    fn start_sql(&mut self, server: usize) {
        self.servers.start_sql(server);
    }

    fn stop_io(&mut self, server: usize) {
        self.servers.stop_io(server);
    }

    fn stop_sql(&mut self, server: usize) {
        self.servers.stop_sql(server);
    }

    fn stop_slave(&mut self, server: usize) {
        self.servers.stop_slave(server);
    }

    fn reset_slave(&mut self, server: usize) {
        self.servers.reset_slave(server);
    }

    fn rows(&mut self, server: usize) -> Vec<u64> {
        self.run();
        self.servers.at(server).rows().into_iter().collect()
    }

    fn positions(&mut self, server: usize) -> (u64, u64) {
        (self.servers.at(server).io_pos(), self.servers.at(server).slave_pos())
    }

    fn binlog(&mut self, server: usize) -> Option<(u64, u32)> {
        self.servers.at(server).binlog_pos().map(|event| (event.seq, event.server))
    }

    fn error(&mut self, server: usize) -> Option<Stopped> {
        self.servers.at(server).error
    }

    fn settle(&mut self) {
        self.servers.settle();
    }

    fn see(&mut self, what: String) {
        self.seen.push(what);
    }

    fn seen(&self) -> &[String] {
        &self.seen
    }
}
