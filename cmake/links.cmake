# What a program that links the archive needs besides it. The layers are object libraries and stay
# out of the installed package, so their external libraries are gathered here, by name, not by path.

# purekv_gather_links(OUT item...): appends to OUT; what the package finds again stays a target, the
# rest become -l names. Other layers are left out: each is noted in its own folder.
function(purekv_gather_links out)
  set(found ${${out}})
  foreach(item ${ARGN})
    if(item MATCHES "^(fmt::fmt|Threads::Threads|CUDA::cudart_static)$")
      list(APPEND found ${item})
    elseif(PUREKV_CUDA AND item STREQUAL PUREKV_CUBLASLT_LIBRARY)
      list(APPEND found "\${PUREKV_CUBLASLT_LIBRARY}")  # the package looks it up
    elseif(item MATCHES "^purekv_")
      continue()
    elseif(TARGET ${item})
      get_target_property(linked ${item} INTERFACE_LINK_LIBRARIES)
      get_target_property(type ${item} TYPE)
      if(NOT type STREQUAL "INTERFACE_LIBRARY")
        get_target_property(location ${item} LOCATION)
        purekv_gather_links(found ${location})
      endif()
      if(linked)
        purekv_gather_links(found ${linked})
      endif()
    elseif(item MATCHES "/lib([^/]+)\\.(so|a)[^/]*$")
      list(APPEND found ${CMAKE_MATCH_1})
    elseif(item MATCHES "::")
      message(FATAL_ERROR "the installed package cannot name ${item}: it is no target here")
    elseif(NOT item MATCHES "^\\$<")
      list(APPEND found ${item})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES found)
  set(${out} ${found} PARENT_SCOPE)
endfunction()

# Adds a layer's libraries to the global property PUREKV_LINKS. Imported targets are seen only in the
# folder that found them, so purekv_layer defers this call to the end of the layer's own folder.
function(purekv_note_links layer)
  get_property(links GLOBAL PROPERTY PUREKV_LINKS)
  get_target_property(linked ${layer} LINK_LIBRARIES)
  purekv_gather_links(links ${linked})
  set_property(GLOBAL PROPERTY PUREKV_LINKS "${links}")
endfunction()
