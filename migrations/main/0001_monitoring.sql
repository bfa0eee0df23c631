-- Tables of monitoring: agents, modules, states, samples, events, fences, ledger.
-- Times are Unix seconds. Names and shapes that people know are kept; texts are plain UTF-8.
-- Keys compare bytes (utf8mb4_bin). No foreign keys: writers lock rows in one fixed order instead.

CREATE TABLE tconfig (
  id_config INT UNSIGNED NOT NULL AUTO_INCREMENT,
  token VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  value TEXT NOT NULL DEFAULT (''),
  PRIMARY KEY (id_config),
  UNIQUE KEY token (token)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

CREATE TABLE tconfig_os (
  id_os SMALLINT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(100) NOT NULL,
  description VARCHAR(250) NOT NULL DEFAULT '',
  PRIMARY KEY (id_os)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

INSERT INTO tconfig_os (id_os, name, description) VALUES
  (1, 'Linux', 'Linux'), (2, 'Solaris', 'Sun Solaris'), (3, 'AIX', 'IBM AIX'), (4, 'BSD', 'OpenBSD, FreeBSD and others'),
  (5, 'HP-UX', 'HP-UX'), (7, 'Cisco', 'Cisco IOS'), (8, 'MacOS', 'macOS'), (9, 'Windows', 'Microsoft Windows'),
  (10, 'Other', 'Other system'), (11, 'Network', 'Network device'), (13, 'Octopods', 'Octopods'),
  (14, 'Embedded', 'Embedded device'), (15, 'Android', 'Android');

CREATE TABLE tgroup (
  id_group INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  parent INT UNSIGNED NOT NULL DEFAULT 0,
  password VARCHAR(100) NOT NULL DEFAULT '',
  disabled TINYINT UNSIGNED NOT NULL DEFAULT 0,
  description TEXT NOT NULL DEFAULT (''),
  PRIMARY KEY (id_group),
  UNIQUE KEY name (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

INSERT INTO tgroup (id_group, name) VALUES
  (2, 'Servers'), (4, 'Firewalls'), (8, 'Databases'), (9, 'Network'), (10, 'Unknown'), (11, 'Workstations'),
  (12, 'Applications'), (13, 'Web');

CREATE TABLE ttype_module (
  id_type SMALLINT UNSIGNED NOT NULL,
  name VARCHAR(100) NOT NULL,
  category SMALLINT NOT NULL,
  description VARCHAR(100) NOT NULL DEFAULT '',
  PRIMARY KEY (id_type)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

INSERT INTO ttype_module (id_type, name, category, description) VALUES
  (1, 'generic_data', 0, 'Generic numeric'),
  (2, 'generic_proc', 1, 'Generic boolean'),
  (3, 'generic_data_string', 2, 'Generic text'),
  (4, 'generic_data_inc', 0, 'Generic rate of a counter'),
  (5, 'generic_data_inc_abs', 0, 'Generic difference of a counter'),
  (6, 'remote_icmp_proc', 4, 'ICMP reachability'),
  (7, 'remote_icmp', 3, 'ICMP round trip (ms)'),
  (8, 'remote_tcp', 3, 'TCP numeric'),
  (9, 'remote_tcp_proc', 4, 'TCP boolean'),
  (10, 'remote_tcp_string', 5, 'TCP text'),
  (11, 'remote_tcp_inc', 3, 'TCP rate of a counter'),
  (12, 'remote_udp_proc', 4, 'UDP boolean'),
  (13, 'remote_udp', 3, 'UDP numeric'),
  (14, 'remote_udp_string', 5, 'UDP text'),
  (15, 'remote_snmp', 3, 'SNMP numeric'),
  (16, 'remote_snmp_inc', 3, 'SNMP rate of a counter'),
  (17, 'remote_snmp_string', 5, 'SNMP text'),
  (18, 'remote_snmp_proc', 4, 'SNMP boolean'),
  (21, 'async_proc', 7, 'Asynchronous boolean'),
  (22, 'async_data', 6, 'Asynchronous numeric'),
  (23, 'async_string', 8, 'Asynchronous text'),
  (24, 'log4x', 0, 'Log severity'),
  (25, 'web_analysis', 8, 'Web analysis'),
  (30, 'web_data', 9, 'Web response time (s)'),
  (31, 'web_proc', 9, 'Web boolean'),
  (32, 'web_content_data', 9, 'Web content, numeric'),
  (33, 'web_content_string', 9, 'Web content, text'),
  (34, 'remote_cmd', 10, 'Remote command, numeric'),
  (35, 'remote_cmd_proc', 10, 'Remote command, boolean'),
  (36, 'remote_cmd_string', 10, 'Remote command, text'),
  (37, 'remote_cmd_inc', 10, 'Remote command, rate'),
  (38, 'web_server_status_code_string', 9, 'Web status line'),
  (100, 'keep_alive', -1, 'Keep-alive');

-- `shard` is what a takeover loads by: the first 12 bits of MD5(name).
CREATE TABLE tagent (
  id_agent INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  alias VARCHAR(255) NOT NULL DEFAULT '',
  address VARCHAR(255) NOT NULL DEFAULT '',
  comments TEXT NOT NULL DEFAULT (''),
  id_group INT UNSIGNED NOT NULL DEFAULT 10,
  last_contact BIGINT NOT NULL DEFAULT 0,
  last_remote_contact BIGINT NOT NULL DEFAULT 0,
  mode TINYINT UNSIGNED NOT NULL DEFAULT 1,
  `interval` INT UNSIGNED NOT NULL DEFAULT 300,
  id_os SMALLINT UNSIGNED NOT NULL DEFAULT 10,
  os_version VARCHAR(255) NOT NULL DEFAULT '',
  agent_version VARCHAR(255) NOT NULL DEFAULT '',
  disabled TINYINT UNSIGNED NOT NULL DEFAULT 0,
  remote TINYINT UNSIGNED NOT NULL DEFAULT 0,
  id_parent INT UNSIGNED NOT NULL DEFAULT 0,
  custom_id VARCHAR(255) NOT NULL DEFAULT '',
  server_name VARCHAR(100) NOT NULL DEFAULT '',
  cascade_protection TINYINT UNSIGNED NOT NULL DEFAULT 0,
  cascade_protection_module INT UNSIGNED NOT NULL DEFAULT 0,
  safe_mode_module INT UNSIGNED NOT NULL DEFAULT 0,
  timezone_offset TINYINT NOT NULL DEFAULT 0,
  quiet TINYINT UNSIGNED NOT NULL DEFAULT 0,
  ignore_unknown TINYINT UNSIGNED NOT NULL DEFAULT 0,
  fixed_ip TINYINT UNSIGNED NOT NULL DEFAULT 0,
  update_module_count BIGINT NOT NULL DEFAULT 0 COMMENT 'when the counters became doubtful; 0 = exact',
  next_position SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'place of the next new module in tagent_contact.seen',
  shard SMALLINT UNSIGNED NOT NULL,
  PRIMARY KEY (id_agent),
  UNIQUE KEY name (name),
  KEY shard (shard),
  KEY id_group (id_group)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- Roll-up counters: changed by differences only, by several writers.
CREATE TABLE tagent_count (
  id_agent INT UNSIGNED NOT NULL,
  normal_count INT NOT NULL DEFAULT 0,
  critical_count INT NOT NULL DEFAULT 0,
  warning_count INT NOT NULL DEFAULT 0,
  unknown_count INT NOT NULL DEFAULT 0,
  notinit_count INT NOT NULL DEFAULT 0,
  fired_count INT NOT NULL DEFAULT 0,
  PRIMARY KEY (id_agent)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- `id_module`: who runs it, 1 data server, 2 network server.
CREATE TABLE tagent_module (
  id_agent_module INT UNSIGNED NOT NULL AUTO_INCREMENT,
  id_agent INT UNSIGNED NOT NULL,
  position SMALLINT UNSIGNED NOT NULL COMMENT 'place in tagent_contact.seen; never used again',
  id_type_module SMALLINT UNSIGNED NOT NULL DEFAULT 1,
  id_module SMALLINT UNSIGNED NOT NULL DEFAULT 1,
  name VARCHAR(600) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  description TEXT NOT NULL DEFAULT (''),
  extended_info TEXT NOT NULL DEFAULT (''),
  max BIGINT NOT NULL DEFAULT 0,
  min BIGINT NOT NULL DEFAULT 0,
  module_interval INT UNSIGNED NOT NULL DEFAULT 0,
  cron_interval VARCHAR(100) NOT NULL DEFAULT '',
  tcp_port INT UNSIGNED NOT NULL DEFAULT 0,
  tcp_send TEXT NOT NULL DEFAULT (''),
  tcp_rcv TEXT NOT NULL DEFAULT (''),
  snmp_community VARCHAR(255) NOT NULL DEFAULT '',
  snmp_oid VARCHAR(255) NOT NULL DEFAULT '',
  ip_target VARCHAR(255) NOT NULL DEFAULT '',
  id_module_group INT UNSIGNED NOT NULL DEFAULT 0,
  flag TINYINT UNSIGNED NOT NULL DEFAULT 0,
  disabled TINYINT UNSIGNED NOT NULL DEFAULT 0,
  id_export INT UNSIGNED NOT NULL DEFAULT 0,
  plugin_user VARCHAR(255) NOT NULL DEFAULT '',
  plugin_pass VARCHAR(255) NOT NULL DEFAULT '',
  plugin_parameter TEXT NOT NULL DEFAULT (''),
  id_plugin INT UNSIGNED NOT NULL DEFAULT 0,
  post_process DOUBLE NOT NULL DEFAULT 0,
  prediction_module TINYINT UNSIGNED NOT NULL DEFAULT 0,
  max_timeout INT UNSIGNED NOT NULL DEFAULT 0,
  max_retries INT UNSIGNED NOT NULL DEFAULT 0,
  custom_id VARCHAR(255) NOT NULL DEFAULT '',
  unit VARCHAR(100) NOT NULL DEFAULT '',
  history_data TINYINT UNSIGNED NOT NULL DEFAULT 1,
  quiet TINYINT UNSIGNED NOT NULL DEFAULT 0,
  ignore_unknown TINYINT UNSIGNED NOT NULL DEFAULT 0,
  min_warning DOUBLE NOT NULL DEFAULT 0,
  max_warning DOUBLE NOT NULL DEFAULT 0,
  str_warning TEXT NOT NULL DEFAULT (''),
  warning_inverse TINYINT UNSIGNED NOT NULL DEFAULT 0,
  percentage_warning TINYINT UNSIGNED NOT NULL DEFAULT 0,
  min_critical DOUBLE NOT NULL DEFAULT 0,
  max_critical DOUBLE NOT NULL DEFAULT 0,
  str_critical TEXT NOT NULL DEFAULT (''),
  critical_inverse TINYINT UNSIGNED NOT NULL DEFAULT 0,
  percentage_critical TINYINT UNSIGNED NOT NULL DEFAULT 0,
  warning_time INT UNSIGNED NOT NULL DEFAULT 0,
  min_ff_event INT UNSIGNED NOT NULL DEFAULT 0,
  each_ff TINYINT UNSIGNED NOT NULL DEFAULT 0,
  min_ff_event_normal INT UNSIGNED NOT NULL DEFAULT 0,
  min_ff_event_warning INT UNSIGNED NOT NULL DEFAULT 0,
  min_ff_event_critical INT UNSIGNED NOT NULL DEFAULT 0,
  ff_type TINYINT UNSIGNED NOT NULL DEFAULT 0,
  ff_timeout INT UNSIGNED NOT NULL DEFAULT 0,
  module_ff_interval INT UNSIGNED NOT NULL DEFAULT 0,
  disabled_types_event TEXT NOT NULL DEFAULT ('') COMMENT 'JSON list of event type names',
  critical_instructions TEXT NOT NULL DEFAULT (''),
  warning_instructions TEXT NOT NULL DEFAULT (''),
  unknown_instructions TEXT NOT NULL DEFAULT (''),
  delete_pending TINYINT UNSIGNED NOT NULL DEFAULT 0,
  custom_integer_1 INT NOT NULL DEFAULT 0,
  custom_integer_2 INT NOT NULL DEFAULT 0,
  custom_string_1 TEXT NOT NULL DEFAULT (''),
  custom_string_2 TEXT NOT NULL DEFAULT (''),
  custom_string_3 TEXT NOT NULL DEFAULT (''),
  PRIMARY KEY (id_agent_module),
  UNIQUE KEY agent_name (id_agent, name),
  KEY delete_pending (delete_pending)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- Written when value, state, counter or error changes. No key on a time: it would be paid at every write.
CREATE TABLE tmodule_state (
  id_agent_module INT UNSIGNED NOT NULL,
  id_agent INT UNSIGNED NOT NULL,
  data MEDIUMTEXT NOT NULL DEFAULT (''),
  status TINYINT UNSIGNED NOT NULL DEFAULT 4,
  known_status TINYINT UNSIGNED NOT NULL DEFAULT 4,
  last_status TINYINT UNSIGNED NOT NULL DEFAULT 4,
  last_known_status TINYINT UNSIGNED NOT NULL DEFAULT 4,
  status_changes INT UNSIGNED NOT NULL DEFAULT 0,
  utimestamp BIGINT NOT NULL DEFAULT 0,
  sample_utimestamp BIGINT NOT NULL DEFAULT 0,
  last_execution_try BIGINT NOT NULL DEFAULT 0,
  last_try BIGINT NOT NULL DEFAULT 0,
  current_interval INT UNSIGNED NOT NULL DEFAULT 0,
  ff_start_utimestamp BIGINT NOT NULL DEFAULT 0,
  ff_normal INT UNSIGNED NOT NULL DEFAULT 0,
  ff_warning INT UNSIGNED NOT NULL DEFAULT 0,
  ff_critical INT UNSIGNED NOT NULL DEFAULT 0,
  last_status_change BIGINT NOT NULL DEFAULT 0,
  last_unknown_update BIGINT NOT NULL DEFAULT 0,
  warning_count INT UNSIGNED NOT NULL DEFAULT 0,
  last_error VARCHAR(500) NOT NULL DEFAULT '',
  last_slot BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (id_agent_module),
  KEY id_agent (id_agent),
  KEY status (status)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- One row an agent and kind of server (as `id_module`), written with each report or flush.
-- `seen`: 8 bytes a module position, big-endian: server second, sample second (network: slot).
CREATE TABLE tagent_contact (
  id_agent INT UNSIGNED NOT NULL,
  server_type TINYINT UNSIGNED NOT NULL,
  utimestamp BIGINT NOT NULL DEFAULT 0,
  running_by VARCHAR(100) NOT NULL DEFAULT '',
  seen MEDIUMBLOB NOT NULL,
  PRIMARY KEY (id_agent, server_type)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- The state of a module right after every sample, for readers of SQL.
CREATE SQL SECURITY INVOKER VIEW tagent_status AS
SELECT
  s.id_agent_module AS id_agent_status,
  s.id_agent_module AS id_agent_module,
  s.data AS data,
  FROM_UNIXTIME(IF(s.last_error = '', GREATEST(s.sample_utimestamp, COALESCE(CAST(CONV(HEX(SUBSTRING(c.seen, m.position * 8 + 5, 4)), 16, 10) AS SIGNED), 0)), s.sample_utimestamp)) AS timestamp,
  s.status AS status,
  s.id_agent AS id_agent,
  FROM_UNIXTIME(s.last_try) AS last_try,
  GREATEST(s.utimestamp, COALESCE(CAST(CONV(HEX(SUBSTRING(c.seen, m.position * 8 + 1, 4)), 16, 10) AS SIGNED), 0)) AS utimestamp,
  s.current_interval AS current_interval,
  COALESCE(c.running_by, '') AS running_by,
  GREATEST(s.last_execution_try, COALESCE(CAST(CONV(HEX(SUBSTRING(c.seen, m.position * 8 + 5, 4)), 16, 10) AS SIGNED), 0)) AS last_execution_try,
  s.status_changes AS status_changes,
  s.last_status AS last_status,
  s.known_status AS known_status,
  s.last_known_status AS last_known_status,
  s.last_error AS last_error,
  s.ff_start_utimestamp AS ff_start_utimestamp,
  s.ff_normal AS ff_normal,
  s.ff_warning AS ff_warning,
  s.ff_critical AS ff_critical,
  s.last_status_change AS last_status_change,
  s.last_unknown_update AS last_unknown_update,
  s.warning_count AS warning_count,
  IF(m.id_module = 2, GREATEST(s.last_slot, COALESCE(CAST(CONV(HEX(SUBSTRING(c.seen, m.position * 8 + 5, 4)), 16, 10) AS SIGNED), 0)), s.last_slot) AS last_slot
FROM tmodule_state s
JOIN tagent_module m ON m.id_agent_module = s.id_agent_module
LEFT JOIN tagent_contact c ON c.id_agent = m.id_agent AND c.server_type = m.id_module;

-- Samples, clustered by module: a graph reads neighbouring pages. Months are cut off `pmax` ahead of time.
CREATE TABLE tagent_data (
  id_agent_module INT UNSIGNED NOT NULL,
  utimestamp BIGINT NOT NULL,
  n SMALLINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'ordinal within module and second',
  data DOUBLE NOT NULL,
  PRIMARY KEY (id_agent_module, utimestamp, n)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci
PARTITION BY RANGE (utimestamp) (PARTITION pmax VALUES LESS THAN MAXVALUE);

CREATE TABLE tagent_data_string (
  id_agent_module INT UNSIGNED NOT NULL,
  utimestamp BIGINT NOT NULL,
  n SMALLINT UNSIGNED NOT NULL DEFAULT 0,
  data MEDIUMTEXT NOT NULL,
  PRIMARY KEY (id_agent_module, utimestamp, n),
  KEY utimestamp (utimestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

CREATE TABLE tagent_data_inc (
  id_agent_module INT UNSIGNED NOT NULL,
  value DOUBLE NOT NULL,
  utimestamp BIGINT NOT NULL,
  PRIMARY KEY (id_agent_module)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- status: 0 new, 1 validated, 2 in process.
CREATE TABLE tevent (
  id_event BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  id_agent INT UNSIGNED NOT NULL DEFAULT 0,
  id_agent_module INT UNSIGNED NOT NULL DEFAULT 0,
  id_group INT UNSIGNED NOT NULL DEFAULT 0,
  status TINYINT UNSIGNED NOT NULL DEFAULT 0,
  utimestamp BIGINT NOT NULL DEFAULT 0,
  ack_utimestamp BIGINT NOT NULL DEFAULT 0,
  event_type VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  severity TINYINT UNSIGNED NOT NULL DEFAULT 0,
  event TEXT NOT NULL,
  data TEXT NOT NULL DEFAULT (''),
  module_status TINYINT UNSIGNED NOT NULL DEFAULT 0,
  source VARCHAR(100) NOT NULL DEFAULT 'monitoring_server',
  PRIMARY KEY (id_event),
  KEY utimestamp (utimestamp),
  KEY agent (id_agent, id_event),
  KEY module_status (id_agent_module, status)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

CREATE TABLE tserver (
  id_server INT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  server_type TINYINT UNSIGNED NOT NULL,
  ip_address VARCHAR(100) NOT NULL DEFAULT '',
  status TINYINT NOT NULL DEFAULT 0 COMMENT '1 up, 0 stopped, -1 down',
  laststart BIGINT NOT NULL DEFAULT 0,
  keepalive BIGINT NOT NULL DEFAULT 0,
  version VARCHAR(100) NOT NULL DEFAULT '',
  threads INT UNSIGNED NOT NULL DEFAULT 0,
  queued_modules INT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (id_server),
  UNIQUE KEY name_type (name, server_type)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- First thing every write transaction reads: no row with its session and incarnation, no write.
CREATE TABLE cluster_fence (
  writer VARCHAR(150) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  session BIGINT UNSIGNED NOT NULL,
  incarnation BIGINT UNSIGNED NOT NULL,
  bump BIGINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (writer)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- Reports that are recorded: SHA-256 of file name, 0, content.
CREATE TABLE treport_done (
  report_key BINARY(32) NOT NULL,
  utimestamp BIGINT NOT NULL,
  PRIMARY KEY (report_key),
  KEY utimestamp (utimestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- One row a flush: which checks ran for which slot.
CREATE TABLE trun_ledger (
  writer VARCHAR(150) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  incarnation BIGINT UNSIGNED NOT NULL,
  number BIGINT UNSIGNED NOT NULL,
  session BIGINT UNSIGNED NOT NULL,
  utimestamp BIGINT NOT NULL,
  executions INT UNSIGNED NOT NULL DEFAULT 0,
  first_slot BIGINT NOT NULL DEFAULT 0,
  last_slot BIGINT NOT NULL DEFAULT 0,
  packed MEDIUMBLOB NOT NULL,
  PRIMARY KEY (writer, incarnation, number),
  KEY last_slot (last_slot),
  KEY utimestamp (utimestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- What was due: from `utimestamp` on, the check runs each `interval_s` seconds; 0 = it does not run.
CREATE TABLE trun_schedule (
  seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  id_agent_module INT UNSIGNED NOT NULL,
  utimestamp BIGINT NOT NULL,
  interval_s INT UNSIGNED NOT NULL,
  PRIMARY KEY (seq),
  KEY module (id_agent_module, seq)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- Changes of settings, read every second by the servers. `kind`: 1 agent (its row or one of its modules).
CREATE TABLE tchange (
  seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  shard SMALLINT UNSIGNED NOT NULL,
  kind TINYINT UNSIGNED NOT NULL DEFAULT 1,
  id INT UNSIGNED NOT NULL,
  utimestamp BIGINT NOT NULL,
  PRIMARY KEY (seq),
  KEY utimestamp (utimestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;
