# The installed tree: program, archive, public headers, demo model, and a package for find_package.
include(CMakePackageConfigHelpers)

get_property(PUREKV_LINKS GLOBAL PROPERTY PUREKV_LINKS)
if(PUREKV_CUDA)
  get_filename_component(PUREKV_CUBLASLT_FOLDER ${PUREKV_CUBLASLT_LIBRARY} DIRECTORY)
  get_filename_component(PUREKV_CUBLASLT_NAME ${PUREKV_CUBLASLT_LIBRARY} NAME)
endif()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/purekv)
install(TARGETS purekv EXPORT purekv-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT purekv-targets NAMESPACE purekv:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/purekv-config.cmake.in
  ${PROJECT_BINARY_DIR}/purekv-config.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the library's interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/purekv-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/purekv-config.cmake ${PROJECT_BINARY_DIR}/purekv-config-version.cmake
  DESTINATION ${package_dir})

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/purekv DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/purekv)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
