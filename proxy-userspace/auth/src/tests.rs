//! Tests of the schemes, the keyring and the replay memory. The expected MACs were computed with Python's `hmac`.

mod keyring;
mod replay;
mod schemes;
