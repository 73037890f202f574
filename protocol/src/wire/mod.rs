//! The NTMobile wire format.
//!
//! A datagram is a [`Header`] of 32 bytes, a body, and a MAC of 16 bytes (T6.3-a). The body of a control message is a random IV and
//! a [`Message`] under AES-128-CFB; that of a data packet an inner IP packet under the path's suite.
//!
//! Everything that comes from outside is checked here; what is not accepted becomes a [`Refusal`] that names the field.

mod codec;
mod header;
mod message;
mod refusal;
mod shown;

pub use codec::{Codec, List, Reader, Writer};
pub use header::{Flags, HEADER_LEN, Header, ID_AT, Kind, MAC_LEN, VERSION};
pub use message::*;
pub use refusal::{Reason, Refusal};
pub use shown::{Fields, Show, Shown};
