#!/bin/bash
# hook.sh DIR virsh ARGUMENT…
# virsh, held before the first command that contains the text in DIR/at, for as long as that file is there.
# DIR/reached says that it is held; with DIR/go it goes on.
dir=$1
shift
case "$*" in *"event --domain"*) exec "$@" ;; esac
while IFS= read -r line; do
    if [ -s "$dir/at" ] && [[ $line == *"$(<"$dir/at")"* ]]; then
        : >"$dir/reached"
        until [ -e "$dir/go" ] || [ ! -e "$dir/at" ]; do sleep 0.02; done
    fi
    printf '%s\n' "$line"
done | "$@"
