//! `elpis appliance`: what a machine that is an appliance can be told.

use clap::Subcommand;
use std::path::PathBuf;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Appliance {
    /// Give each service the files that are its own; all other units start after it (root)
    Owners,
    /// Read elpis.txt from a stick called ELPIS, for `setup`
    Stick,
    /// Give the machine its name and wait for an address; the other units start after it (root)
    Setup {
        /// On a Debian machine of your own: take both from this file, else from the machine, which is left as it is
        #[arg(long, value_name = "FILE")]
        answers: Option<PathBuf>,
    },
    /// Form a cluster of one, or join the one that the kernel's command line names, unless that is done
    Form,
    /// Give this machine's own cluster of one up and join another (root)
    Join {
        /// A member, as it names itself with `elpis cluster add-node`
        #[arg(value_name = "HOST:PORT")]
        address: String,
        /// The six words
        #[arg(required = true, num_args = 1..=6)]
        words: Vec<String>,
        /// Name of this node, when it has agents of its own: they are lost
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
    /// Install this version on a disk; this start goes on from memory until the next one (root)
    Install {
        /// As the kernel names it, for example vda; auto = the only empty one
        disk: String,
        /// Lose what the disk holds
        #[arg(long)]
        erase: bool,
    },
    /// Write the disk (elpis-install@.service)
    #[command(hide = true)]
    WriteDisk {
        /// DISK or DISK:erase
        choice: String,
    },
    /// Write the newer version of the medium in the drive beside the one that runs; a restart starts it (root)
    Update,
    /// Write the slot that does not run (elpis-update.service)
    #[command(hide = true)]
    WriteSlot,
    /// Do what the node agent has left an order for (elpis-order.service)
    #[command(hide = true)]
    Obey {
        /// Folder with the order
        orders: PathBuf,
    },
    /// Start the version in the other slot by the next restart: the one that ran before an update, or after going back the
    /// newer one; what is stored stays (root)
    Previous,
    /// Make the version in the other slot the next one to start (elpis-previous.service)
    #[command(hide = true)]
    TurnSlot,
    /// Keep a new version that works, leave one that does not (elpis-verdict.service)
    #[command(hide = true)]
    Verdict,
    /// Print the SHA-256 of the console's certificate, to compare with a browser's warning; the screen shows its ends
    Certificate,
    /// Compare this machine with what a hardened one looks like, a line a check (root)
    Audit {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Lose everything that this machine holds but its name and address, and start as on the first day (root)
    FactoryReset {
        /// This machine's name
        #[arg(long, value_name = "NAME")]
        confirm: String,
    },
    /// Remove everything but the machine's name, and start as on the first day (elpis-reset.service)
    #[command(hide = true)]
    Reset,
    /// Show the status screen on this terminal
    Screen,
    /// Exit with 0 when this node works and with 1, and the reason, when it does not
    Health,
}
