#![no_main]
crivet_fuzz::target!(LAYER, bytes);
