# Copies mounted settings, keys and prompts to a folder of our own: own-files.sh GIVEN OWN.
# Kubernetes gives what it mounts to the group, too, and Understudy refuses keys and secrets that others may read.
set -eu
umask 077
given=$1 own=$2

copy() { # the files of a mount to a folder; not its inner links, which begin with two dots
  mkdir -p "$own/$2"
  for one in "$given/$1"/*; do
    if [ -f "$one" ]; then cp -L "$one" "$own/$2/"; fi
  done
}

copy site .
copy prompts prompts
copy keys keys
copy trusted keys/trusted
