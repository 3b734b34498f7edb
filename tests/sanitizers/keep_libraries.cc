// Linked into every program of the presets asan and tsan: libraries stay loaded once they are. Open
// MPI unloads its plugins when it ends, and what they leak or raced on would then be reported
// without the library's name, which is what suppressions go by.
extern "C" int dlclose(void* /*library*/) { return 0; }
