#!/bin/sh
figlet buildgraph
echo "hello from $(. /etc/os-release && echo "$PRETTY_NAME"), as $(id -un), in $PWD"
