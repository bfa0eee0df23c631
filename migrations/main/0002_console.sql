-- People who sign in to the console, and their sessions. Times are Unix seconds.

-- `password`: argon2id in PHC form.
CREATE TABLE tuser (
  id_user VARCHAR(150) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  fullname VARCHAR(255) NOT NULL DEFAULT '',
  password VARCHAR(255) NOT NULL,
  is_admin TINYINT UNSIGNED NOT NULL DEFAULT 0,
  disabled TINYINT UNSIGNED NOT NULL DEFAULT 0,
  registered BIGINT NOT NULL DEFAULT 0,
  last_connect BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (id_user)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;

-- `token`: SHA-256 of what the browser holds; the token itself is nowhere.
CREATE TABLE tsession (
  token BINARY(32) NOT NULL,
  id_user VARCHAR(150) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  created BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  address VARCHAR(64) NOT NULL DEFAULT '',
  PRIMARY KEY (token),
  KEY expires (expires),
  KEY id_user (id_user)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_520_ci;
