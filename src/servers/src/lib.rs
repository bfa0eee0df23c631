//! Data server and network server.
