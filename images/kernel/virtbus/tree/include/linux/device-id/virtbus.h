/* SPDX-License-Identifier: GPL-2.0 */
#ifndef LINUX_DEVICE_ID_VIRTBUS_H
#define LINUX_DEVICE_ID_VIRTBUS_H

/* A part of mod_devicetable.h, which has kernel_ulong_t. */

/* "module.name" and its NUL */
#define VIRTBUS_NAME_SIZE 64
#define VIRTBUS_MODULE_PREFIX "virtbus:"

struct virtbus_device_id {
	char name[VIRTBUS_NAME_SIZE];
	kernel_ulong_t driver_data;
};

#endif /* LINUX_DEVICE_ID_VIRTBUS_H */
