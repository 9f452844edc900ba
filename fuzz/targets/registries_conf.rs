#![no_main]
crivet_fuzz::target!(REGISTRIES_CONF, bytes);
