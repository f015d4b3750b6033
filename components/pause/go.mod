module imgbuild/components/pause

go 1.26.0
