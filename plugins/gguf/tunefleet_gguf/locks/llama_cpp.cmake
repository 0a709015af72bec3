# Read by CMake as it begins on llama_cpp_python, whose own file has this library built, without a way to
# say no. It is that of llama.cpp's programs, which are not built here: half of all that is compiled.
set(LLAMA_BUILD_COMMON OFF)
