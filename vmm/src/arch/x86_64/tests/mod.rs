mod boot;
mod cpuid;
mod kernel;
