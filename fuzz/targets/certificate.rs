#![no_main]
crivet_fuzz::target!(CERTIFICATE, bytes);
