#![no_main]
crivet_fuzz::target!(HOSTS_TOML, bytes);
