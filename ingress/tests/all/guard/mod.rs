//! Who gets in, and who does not: tokens, roles, origins of requests, switches, over all four transports and the HTTP API of a
//! node with real sockets. The worker behind it is played (`house`); the client is one for all transports (`way`).

mod house;
mod lives;
mod matrix;
mod proxies;
mod silent;
mod switches;
mod tokens;
mod way;
