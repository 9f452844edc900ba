#![no_main]
crivet_fuzz::target!(TAR_SPLIT, bytes);
