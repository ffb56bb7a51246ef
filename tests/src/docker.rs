//! A private Docker engine.
