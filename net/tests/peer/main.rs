//! Members among themselves, over UDP on loopback. Most tests hold all their members on one executor; `threads` gives each
//! one its own.
#![cfg(feature = "glommio")]

mod common;
mod ended;
mod hello;
mod hostile;
mod http;
mod messages;
mod path;
mod proxy;
mod snapshots;
mod threads;
mod ties;
mod tls;
