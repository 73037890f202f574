//! An ordinary authoritative DNS server, from RFC 1035 zone files: the root, a top-level domain, the name server of a general
//! node (DNS_GN). It knows nothing of NTMobile.
//!
//! * [`zone`]: a zone file, checked; an error names its file and line.
//! * [`answer`]: which answer a question gets (RFC 1034, section 4.3.2): own data, referrals with glue, aliases, wildcards, negative answers.
//! * [`listen`]: the sockets, UDP and TCP; what arrives there and is no question.
//! * [`server`]: questions answered on all sockets, EDNS, and counts of what was answered and refused.
//! * [`config`]: the daemon's configuration.
//!
//! Zone files are read and messages coded by `hickory-proto`; requests, answers and streams of messages are `hickory-server`'s. The answer
//! itself is made here, because its own catalogue (0.26) claims authority for referrals and leaves their glue out.

pub mod answer;
pub mod config;
pub mod listen;
pub mod server;
pub mod zone;
