#![no_main]
crivet_fuzz::target!(TRUSTED_ROOT, json);
