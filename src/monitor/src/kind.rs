//! Module types: their ids, names and what follows from a name (semantics: the name decides the kind).

/// Id of a module type as in `ttype_module`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ModuleType(u16);

/// How values of a type are read, judged and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number as it stands.
    Numeric,
    /// A number whose default critical range is `[0, 1)`.
    Boolean,
    /// Text.
    Text,
    /// Rate per second of a counter.
    Rate,
    /// Difference of a counter between two samples.
    Difference,
    /// Severity of a log line.
    Log,
}

const TYPES: &[(u16, &str, &str)] = &[
    (1, "generic_data", "Generic numeric"),
    (2, "generic_proc", "Generic boolean"),
    (3, "generic_data_string", "Generic text"),
    (4, "generic_data_inc", "Generic rate of a counter"),
    (5, "generic_data_inc_abs", "Generic difference of a counter"),
    (6, "remote_icmp_proc", "ICMP reachability"),
    (7, "remote_icmp", "ICMP round trip (ms)"),
    (8, "remote_tcp", "TCP numeric"),
    (9, "remote_tcp_proc", "TCP boolean"),
    (10, "remote_tcp_string", "TCP text"),
    (11, "remote_tcp_inc", "TCP rate of a counter"),
    (12, "remote_udp_proc", "UDP boolean"),
    (13, "remote_udp", "UDP numeric"),
    (14, "remote_udp_string", "UDP text"),
    (15, "remote_snmp", "SNMP numeric"),
    (16, "remote_snmp_inc", "SNMP rate of a counter"),
    (17, "remote_snmp_string", "SNMP text"),
    (18, "remote_snmp_proc", "SNMP boolean"),
    (21, "async_proc", "Asynchronous boolean"),
    (22, "async_data", "Asynchronous numeric"),
    (23, "async_string", "Asynchronous text"),
    (24, "log4x", "Log severity"),
    (25, "web_analysis", "Web analysis"),
    (30, "web_data", "Web response time (s)"),
    (31, "web_proc", "Web boolean"),
    (32, "web_content_data", "Web content, numeric"),
    (33, "web_content_string", "Web content, text"),
    (34, "remote_cmd", "Remote command, numeric"),
    (35, "remote_cmd_proc", "Remote command, boolean"),
    (36, "remote_cmd_string", "Remote command, text"),
    (37, "remote_cmd_inc", "Remote command, rate"),
    (38, "web_server_status_code_string", "Web status line"),
    (100, "keep_alive", "Keep-alive"),
];

impl ModuleType {
    /// `generic_data`, the type of a module that names none.
    pub const GENERIC_DATA: ModuleType = ModuleType(1);
    /// `keep_alive`, fed by the server itself.
    pub const KEEP_ALIVE: ModuleType = ModuleType(100);

    /// All known types: (type, name, description).
    pub fn all() -> impl Iterator<Item = (ModuleType, &'static str, &'static str)> {
        TYPES.iter().map(|(id, name, description)| (ModuleType(*id), *name, *description))
    }

    /// The type with this id.
    pub fn from_id(id: u16) -> Option<ModuleType> {
        TYPES.iter().any(|t| t.0 == id).then_some(ModuleType(id))
    }

    /// The type with this exact name.
    pub fn from_name(name: &str) -> Option<ModuleType> {
        TYPES.iter().find(|t| t.1 == name).map(|t| ModuleType(t.0))
    }

    /// Id as in `ttype_module`.
    pub fn id(self) -> u16 {
        self.0
    }

    /// Name as in data files.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|t| t.0 == self.0).map_or("generic_data", |t| t.1)
    }

    /// What its name makes of it.
    pub fn kind(self) -> Kind {
        let name = self.name();
        match name {
            "log4x" => Kind::Log,
            "web_analysis" | "keep_alive" => Kind::Boolean,
            _ if name.ends_with("_string") => Kind::Text,
            _ if name.ends_with("_inc_abs") => Kind::Difference,
            _ if name.ends_with("_inc") => Kind::Rate,
            _ if name.ends_with("_proc") => Kind::Boolean,
            _ => Kind::Numeric,
        }
    }

    /// Values come when they come: no unknown detection, every sample is stored.
    pub fn is_async(self) -> bool {
        self.name().contains("async")
    }

    /// Run by the network server.
    pub fn is_network(self) -> bool {
        matches!(self.0, 6..=18)
    }
}
