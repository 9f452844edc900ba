#![no_main]
crivet_fuzz::target!(BUNDLE, json);
