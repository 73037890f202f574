//! An ordinary authoritative DNS server, from RFC 1035 zone files: the root, a top-level domain, the name server of a general
//! node (DNS_GN). It knows nothing of NTMobile.
//!
//! * [`zone`]: a zone file, checked; an error names its file and line.
//! * [`answer`]: which answer a question gets (RFC 1034, section 4.3.2): own data, referrals with glue, aliases, wildcards, negative answers.
//! * [`server`]: the sockets, UDP and TCP, EDNS, and counts of what was answered.
//! * [`config`]: the daemon's configuration.
//!
//! Zone files are read and messages coded by `hickory-proto`; sockets are served by `hickory-server`. The answer itself is made
//! here, because `hickory-server`'s own catalogue (0.26) claims authority for referrals and leaves their glue out.

pub mod answer;
pub mod config;
pub mod server;
pub mod zone;
