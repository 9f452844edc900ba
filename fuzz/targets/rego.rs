#![no_main]
crivet_fuzz::target!(REGO, bytes);
