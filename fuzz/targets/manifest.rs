#![no_main]
crivet_fuzz::target!(MANIFEST, json);
