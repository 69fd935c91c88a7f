#!/bin/sh
# Installs the programs and libraries of Debian's that `make test-plugins` lacks. Who may not do that
# is told which packages to install; tests whose client is missing are skipped. Takes the Python to build with.
set -eu
missing=

# need PACKAGE PATTERN: one file that matches the pattern is there where the package is.
need() {
    for file in $2; do
        if [ -e "$file" ]; then return; fi
    done
    missing="$missing $1"
}

# program PACKAGE NAME
program() {
    command -v "$2" > /dev/null || missing="$missing $1"
}

need postgresql '/usr/lib/postgresql/*/bin/postgres'
program dnf dnf
need dnf-plugins-core '/usr/lib/python3*/*-packages/dnf-plugins/download.py'
program rpm rpmbuild
program skopeo skopeo
program podman podman
program ruby gem
program npm npm
program maven mvn
program gradle gradle
program ostree ostree

# What pulp_ostree's PyGObject is compiled with, and what it loads.
program gcc gcc
program pkg-config pkg-config
need python3-dev "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"
need gir1.2-ostree-1.0 '/usr/lib/*/girepository-1.0/OSTree-1.0.typelib'
need libgirepository1.0-dev '/usr/lib/*/pkgconfig/gobject-introspection-1.0.pc'
need libcairo2-dev '/usr/lib/*/pkgconfig/cairo.pc'

if [ -z "$missing" ]; then exit; fi
install="apt-get install --yes --no-install-recommends$missing"
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "Missing for some plugins, whose tests are skipped: $install" >&2
    exit
fi
apt-get update --quiet=2
DEBIAN_FRONTEND=noninteractive $install
