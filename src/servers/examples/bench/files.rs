//! Agents' files, and a spool full of them.

use crate::fake::ME;
use anyhow::Result;
use elpis_monitor::Shard;
use elpis_tentacle::spool::{Intake, Limits, Spool};
use std::fmt::Write as _;
use std::path::Path;

pub(crate) const AGENTS: u32 = 1_000;
pub(crate) const MODULES: u32 = 20;
/// Threads that fill the spool: each waits for the disk.
const THREADS: u32 = 16;

/// A spool as the tentacle server keeps it.
pub(crate) struct Spooled {
    intake: Intake,
    /// Files a round and agent so far; also their time.
    rounds: u32,
    first_s: i64,
}

impl Spooled {
    pub(crate) fn open(folder: &Path, first_s: i64) -> Result<Spooled> {
        let intake = Intake::open(Spool::open(folder, Limits::default())?, ME)?;
        intake.spool().set_readiness(&(0..4096).map(|shard| (shard, 1)).collect())?;
        Ok(Spooled { intake, rounds: 0, first_s })
    }

    /// So many files of each agent, `changing` of whose modules have another value in each file.
    pub(crate) fn fill(&mut self, rounds: u32, changing: u32) -> Result<u64> {
        let first = self.rounds;
        let spooled = &*self;
        let works = std::thread::scope(|scope| {
            let fill = |thread: u32| {
                move || -> Result<()> {
                    for round in first..first + rounds {
                        for agent in (thread..AGENTS).step_by(THREADS as usize) {
                            spooled.accept(agent, round, changing)?;
                        }
                    }
                    Ok(())
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(fill(thread))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<()>>>()
        });
        works?;
        self.rounds += rounds;
        Ok(u64::from(rounds) * u64::from(AGENTS))
    }

    fn accept(&self, agent: u32, round: u32, changing: u32) -> Result<()> {
        let name = format!("bench-{agent:04}");
        let at = self.first_s + i64::from(round) * 60;
        let content = content(&name, at, round, changing);
        let shard = Shard::of_agent(&name).number();
        let now_ms = jiff::Timestamp::now().as_millisecond();
        self.intake.accept(&format!("{name}.{at}.data"), content.as_bytes(), shard, now_ms)?;
        Ok(())
    }

    /// Deletes what was handed over, as the tentacle server does.
    pub(crate) fn clear(&self) -> Result<()> {
        for entry in self.intake.spool().handed_done()? {
            self.intake.delete(&entry)?;
        }
        Ok(())
    }
}

/// As a software agent writes it.
fn content(agent: &str, at: i64, round: u32, changing: u32) -> String {
    let mut text = format!(
        "<?xml version='1.0' encoding='UTF-8'?>\n<agent_data description='' group='' os_name='Linux' \
         os_version='Debian GNU/Linux 12' interval='60' version='1' timestamp='{at}' agent_name='{agent}' \
         agent_alias='{agent}' timezone_offset='0' address='10.0.0.1'>\n"
    );
    for module in 0..MODULES {
        let value = if module < changing { f64::from(round) + f64::from(module) / 100.0 } else { 7.0 };
        let _ = write!(
            text,
            "<module>\n<name><![CDATA[module {module}]]></name>\n<description><![CDATA[A figure of the machine]]>\
             </description>\n<type><![CDATA[generic_data]]></type>\n<unit><![CDATA[%]]></unit>\n\
             <min_warning>1000000</min_warning><max_warning>2000000</max_warning>\n\
             <data><![CDATA[{value:.2}]]></data>\n</module>\n"
        );
    }
    text.push_str("</agent_data>\n");
    text
}
