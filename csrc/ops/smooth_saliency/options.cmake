# 3 to 10 % faster than as the other ops are compiled.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/cpu.cpp PROPERTIES COMPILE_OPTIONS -O3)
